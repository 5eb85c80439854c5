"""Remember which adapter a name meant when the buyer used it.

Owns this record. The node gives the names, and may give a name to another adapter later. But the
name decides who is paid, so a buyer must ask by id once after the meaning of a name has changed.
"""

from __future__ import annotations

from typing import Final

from viz.buyer.ledger.ledger import BuyerLedger
from viz.errors import UnknownModel
from viz.protocol.messages import AdapterOffer
from viz.protocol.wire import Json

RECORD: Final = "names.json"


class Names:
    """The names that were used on one channel."""

    def __init__(self, ledger: BuyerLedger) -> None:
        """Read the record; raise BooksMismatch if it cannot be read."""
        self._ledger = ledger
        self._meant: Json = ledger.kept_record(RECORD)

    def use(self, asked: str, offer: AdapterOffer) -> None:
        """Note which model a request named; raise UnknownModel if its name meant another before.

        A request by id accepts the name that this id has now.
        """
        name = offer.name.strip().casefold()
        if not name:
            return
        before = self._meant.get(name)
        if before == offer.model:
            return
        if before is not None and asked != offer.model:
            raise UnknownModel(
                f"{asked[:80]!r} meant {before} when you last used it, and the node calls "
                f"{offer.model} by it now: ask by the id of the model that you mean",
                param="model",
            )
        after = {**self._meant, name: offer.model}
        self._ledger.keep_record(RECORD, after)
        self._meant = after
