"""Which adapter a name meant when the buyer used it.

Owns that memory. A name is its node's word and may be given to another adapter, but it decides whom
the money goes to: a buyer who asks by it is asked once more, by id, where its meaning changed.
"""

from __future__ import annotations

from typing import Final

from viz.buyer.ledger import BuyerLedger
from viz.errors import UnknownModel
from viz.protocol.messages import AdapterOffer
from viz.protocol.wire import Json

RECORD: Final = "names.json"


class Names:
    """The names that were used on one channel."""

    def __init__(self, ledger: BuyerLedger) -> None:
        """Raise BooksMismatch where the record cannot be read."""
        self._ledger = ledger
        self._meant: Json = ledger.kept_record(RECORD)

    def use(self, asked: str, offer: AdapterOffer) -> None:
        """Note what a request named; raise UnknownModel where the name meant another before.

        Asking by an id takes the name that the id has now.
        """
        name = offer.name.strip().casefold()
        if not name:
            return
        before = self._meant.get(name)
        if before == offer.model:
            return
        if before is not None and asked != offer.model:
            raise UnknownModel(
                f"{asked[:80]!r} was {before} when you asked by it last, and the node calls "
                f"{offer.model} so now: ask by the id of the one that you mean",
                param="model",
            )
        after = {**self._meant, name: offer.model}
        self._ledger.keep_record(RECORD, after)
        self._meant = after
