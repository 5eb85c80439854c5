"""Which requests may still cost something, how much, and which receipt billed each.

Owns what a buyer's requests expose while they run, what ended without its receipt, and what an
earlier process may have left. Does not sign and knows no file: ``viz.buyer.purse`` does.

Invariants: every receipt is one request's, found by the hash of what was asked, and a request is
billed once; what no request accounts for comes out of an allowance that only shrinks. So a node
cannot write itself receipts, however true its signature is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from viz.domain.curve import Curve
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.units import AdapterId, Units
from viz.errors import NodeNotTrusted

UNRECEIPTED_S: Final = 180.0  # a node bills well before, or hardly ever
GIVEN_UP_KEPT: Final = 256


@dataclass(slots=True, eq=False)
class Exposure:
    """What one request may cost, as far as its answer has arrived, and when it was left so.

    ``most_units`` is what it may cost in the end; ``seq`` the receipt that billed it, 0 for none.
    """

    adapter_id: AdapterId
    request: bytes
    units: Units = 0
    most_units: Units = 0
    left_at_s: float = 0.0
    seq: int = 0

    def equals(self, other: Exposure) -> bool:
        """Say whether both asked for the same: then the receipt of one fits the other."""
        return (self.adapter_id, self.request) == (other.adapter_id, other.request)


class Exposures:
    """The requests of one channel in this process."""

    def __init__(self, curve: Curve, request_units: Units, forgotten_units: Units) -> None:
        """``request_units`` caps all that ended without receipt.

        Receipts that an earlier process did not read are covered by what it signed, and by
        ``forgotten_units`` in all beyond it, for a node that gave credit.
        """
        self._request_units = request_units
        self._forgotten_units = forgotten_units
        self._signed_earlier = {
            adapter_id: max(0, units - curve.spent_units(adapter_id))
            for adapter_id, units in curve.vector.items()
        }
        self._under_way: set[Exposure] = set()
        self._left: set[Exposure] = set()
        self._given_up: deque[Exposure] = deque(maxlen=GIVEN_UP_KEPT)

    @contextmanager
    def open(self, adapter_id: AdapterId, request: bytes) -> Iterator[Exposure]:
        """Allow a request to cost what its exposure says (raise it as the answer arrives)."""
        exposure = Exposure(adapter_id, request)
        self._under_way.add(exposure)
        try:
            yield exposure
        finally:
            self._under_way.discard(exposure)

    def leave(self, exposure: Exposure) -> None:
        """Remember that a request ended without its receipt: its cost is not known yet."""
        if not exposure.seq:
            exposure.left_at_s = time.monotonic()
            self._left.add(exposure)

    def forget_old(self) -> None:
        """Allow nothing more for requests that the node had time to bill and did not."""
        now_s = time.monotonic()
        old = {each for each in self._left if each.left_at_s + UNRECEIPTED_S < now_s}
        self._left -= old
        self._given_up.extend(old)

    @property
    def lacks_receipts(self) -> bool:
        """Whether a request ended without its receipt."""
        return bool(self._left)

    def units(self, adapter_id: AdapterId) -> Units:
        """Return what the adapter's requests may cost now, those that are billed left out."""

        def units_of(group: set[Exposure]) -> Units:
            return sum(e.units for e in group if e.adapter_id == adapter_id and not e.seq)

        # A node that breaks off every answer is not paid for all of them.
        left_units = min(self._request_units, units_of(self._left - self._under_way))
        return units_of(self._under_way) + left_units

    def bill(self, exposure: Exposure, seq: int) -> None:
        """Note the receipt that a request's own answer brought; raise NodeNotTrusted for a second.

        A receipt that was fetched before may have been taken for that of an equal request.
        """
        equals = [
            each
            for each in self._under_way | self._left
            if each is not exposure and each.equals(exposure)
        ]
        other = next((each for each in equals if each.seq == seq), None)
        if other is None and exposure.seq not in (0, seq):
            other = next((each for each in equals if not each.seq), None)
            if other is None:
                raise NodeNotTrusted("the node bills one request twice")
        if other is not None:
            self._note(other, exposure.seq)
        exposure.seq = seq

    def account_for(self, signed: SignedReceipt, unused_units: Units) -> None:
        """Find the request behind a receipt that no answer brought; raise NodeNotTrusted.

        ``unused_units`` were signed for the adapter and are not billed yet: a node may have sent
        more than what arrived, but nothing that was not paid for.
        """
        receipt = signed.receipt
        if len(signed.lines) != 1:
            raise NodeNotTrusted(f"receipt {receipt.seq} bills nothing, or several adapters")
        adapter_id, units = signed.lines[0]
        fitting = [
            each
            for each in (*self._under_way, *self._left, *self._given_up)
            if each.adapter_id == adapter_id
            and not each.seq
            and units <= max(each.units, min(each.most_units, unused_units))
            and receipt.request_hash == salted_hash(signed.request_salt, each.request)
        ]
        if fitting:
            self._note(min(fitting, key=lambda each: (each.left_at_s, each.units)), receipt.seq)
            return
        earlier = min(units, self._signed_earlier.get(adapter_id, 0))
        if units - earlier > self._forgotten_units:
            raise NodeNotTrusted(
                f"the node hands out a receipt of {units} units for adapter {adapter_id}, and no "
                "request of this channel accounts for it"
            )
        self._forgotten_units -= units - earlier
        if earlier:
            self._signed_earlier[adapter_id] -= earlier

    def _note(self, exposure: Exposure, seq: int) -> None:
        exposure.seq = seq
        if seq:
            self._left.discard(exposure)
