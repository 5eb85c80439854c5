"""Remember with which tokenizer each adapter of a node was counted when it was paid for.

Owns this record beside the channel's ledger, and refuses a change after which the tokens could not
be counted again. ``viz.buyer.terms.counting`` does the counting.

Invariant: if an adapter was counted exactly before, it is not paid for by a count that the buyer
cannot repeat, in this process or a later one, until the buyer forgives.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.terms.offers import is_record_key, kept_for, record_key
from viz.domain.units import Hash32, hex_of
from viz.errors import BooksMismatch, InvalidRequest, NodeNotTrusted
from viz.protocol.messages import AdapterOffer, ServedBase
from viz.protocol.wire import Json, Reader

RECORD: Final = "counting.json"
_log = structlog.get_logger()


class CountingPin(NamedTuple):
    """A base model and its tokenizer; ``exact`` if the billed tokens could be counted again."""

    base: Hash32
    tokenizer: Hash32
    exact: bool


class CountingPins:
    """The pins of one channel's adapters, base models included."""

    def __init__(self, ledger: BuyerLedger) -> None:
        """Read the record; raise BooksMismatch if it cannot be read."""
        self._ledger = ledger
        self._pins = _read(ledger.kept_record(RECORD))

    def check(self, offer: AdapterOffer, base: ServedBase, *, exact: bool) -> None:
        """Raise NodeNotTrusted if the adapter was counted exactly before and cannot be now."""
        pin = kept_for(self._pins, offer.adapter_id, offer.model)
        if pin is None or exact or not pin.exact:
            return
        raise NodeNotTrusted(
            f"{offer.model} was counted by tokenizer {hex_of(pin.tokenizer)}, and the node names "
            f"{hex_of(base.tokenizer_digest)} now, which is not known here: what it bills could "
            "not be counted again, and nothing was paid. If you know the new one, put its "
            "tokenizer.json and tokenizer_config.json into a folder in `tokenizers` of the buyer's "
            "directory; to pay without a recount, `viz channel forgive`"
        )

    def keep(self, offer: AdapterOffer, base: ServedBase, *, exact: bool) -> None:
        """Record on disk how an adapter is counted, before it is paid for; raise as ``check``."""
        self.check(offer, base, exact=exact)
        pin = CountingPin(base.digest, base.tokenizer_digest, exact)
        before = self._pins.get(record_key(offer.adapter_id, offer.model))
        if pin == before:
            return
        if before is not None:
            _log.warning(
                "the node counts by another base model now",
                model=offer.model,
                base=hex_of(pin.base),
                was=hex_of(before.base),
            )
        self._keep({**self._pins, record_key(offer.adapter_id, offer.model): pin})

    def forget(self) -> None:
        """Forget all pins, so that the next request records anew how the node counts."""
        if self._pins:
            self._keep({})

    def _keep(self, after: dict[str, CountingPin]) -> None:
        record: Json = {
            key: {
                "base": hex_of(pin.base),
                "tokenizer": hex_of(pin.tokenizer),
                "exact": pin.exact,
            }
            for key, pin in after.items()
        }
        self._ledger.keep_record(RECORD, record)
        self._pins = after


def _read(kept: Json) -> dict[str, CountingPin]:
    try:
        found: dict[str, CountingPin] = {}
        for key, value in kept.items():
            if not is_record_key(key):
                raise ValueError(key)
            reader = Reader(value, "how an adapter is counted")
            found[key] = CountingPin(
                reader.hash32("base"), reader.hash32("tokenizer"), reader.boolean("exact")
            )
    except (InvalidRequest, ValueError) as error:
        raise BooksMismatch(
            f"the record of tokenizers ({RECORD} beside the channel's ledger) cannot be read: "
            "restore it. It holds no money; without it the node's next answer is recorded as new"
        ) from error
    return found
