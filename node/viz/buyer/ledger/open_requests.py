"""Track which requests may still cost something, how much, and which receipt billed each.

Owns what a buyer's requests may cost while they run, and the requests that ended without their
receipt, in this process or in an earlier one.

A request is in one of four groups:
 - under way: its answer arrives, and will bring the receipt;
 - awaiting a bill: it ended without a receipt a short while ago, and the node may still bill it;
 - given up: the node had time to bill it and did not. It justifies no more than what is already
   signed. It is kept because a bill may still come;
 - refused: it justifies nothing, and is kept for a while, because a server in front of the node may
   have written the refusal.

Invariants: every receipt belongs to one request, found by the hash of what was asked, and a request
is billed once. A bill that the answer did not bring is for at most what arrived, one step, and what
is signed for the adapter and not billed yet, or what a node that delivers on credit may still be
ahead. Any more is taken from what the buyer forgives, or the bill is refused. What is billed and
did not arrive is weighed (``viz.buyer.vouchers.undelivered``). So a valid signature of the node is
not enough: it can bill neither what was not asked for, nor much that it did not deliver.

A bill that no request accounts for need not be a lie: a server in front of the node may have taken
a request's name out and repeated it, or written the request anew, so that its hash is another one.
If it bills no more than what is signed and not billed yet, which an honest node never exceeds, it
counts as the bill of a broken answer. Any more is a lie of the node's own. A node that delivered on
credit is the exception: its bills may exceed what is signed. From such a node a bill without a
request is taken up to what may be lost in all, and the buyer may allow more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from viz.buyer.ledger.open_request import Match, OpenRequest, unasked
from viz.domain.node_channel import Vector
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.trust import UNACCOUNTED
from viz.domain.units import AdapterId, Units
from viz.errors import NodeNotTrusted

# A node bills a broken answer within moments; after this time it has most likely lost the bill.
UNRECEIPTED_S: Final = 180.0
GIVEN_UP_KEPT: Final = 256
REFUSED_KEPT: Final = 64


class OpenRequests:
    """The requests of one channel that are not billed yet."""

    def __init__(self, request_units: Units, earlier: Iterable[OpenRequest] = ()) -> None:
        """Make the groups. ``earlier`` are the requests of earlier processes.

        ``request_units``, the cap of one request, bounds the cost of all requests that ended
        without a receipt, taken together.
        """
        self._request_units = request_units
        self._under_way: set[OpenRequest] = set()
        self._awaiting: set[OpenRequest] = set()
        # In the order in which they were given up, or refused.
        self._given_up: dict[OpenRequest, None] = {}
        self._refused: dict[OpenRequest, None] = {}
        for each in earlier:
            (self._refused if each.refused else self._given_up)[each] = None

    @contextmanager
    def open(self, adapter_id: AdapterId, request: bytes) -> Iterator[OpenRequest]:
        """Yield a new open request; the caller raises its amounts as the answer arrives."""
        open_request = OpenRequest(adapter_id, request)
        self._under_way.add(open_request)
        try:
            yield open_request
        finally:
            self._under_way.discard(open_request)

    def leave(
        self, open_request: OpenRequest, unused_units: Units = 0, *, refused: bool = False
    ) -> list[OpenRequest]:
        """Remember that a request ended without its receipt, so that its cost is not known yet.

        ``unused_units``, signed for the adapter and not billed, let the node run so far ahead.
        Returns those that are now forgotten: the oldest refused ones beyond ``REFUSED_KEPT``.
        """
        if open_request.seq:
            return []
        open_request.ended_at_s, open_request.refused = time.monotonic(), refused
        if refused:
            self._refused[open_request] = None
        else:
            reach_units = open_request.units + unused_units
            open_request.reach_units = min(open_request.most_units, reach_units)
            self._awaiting.add(open_request)
        return _oldest_out(self._refused, REFUSED_KEPT)

    def forget_old(self) -> list[OpenRequest]:
        """Give up the requests that the node had time to bill; call it if no receipt is missing.

        Returns those that are now forgotten: the oldest ones beyond ``GIVEN_UP_KEPT``, and those
        that were refused before that time.
        """
        now_s = time.monotonic()
        old = [each for each in self._awaiting if each.ended_at_s + UNRECEIPTED_S < now_s]
        self._awaiting.difference_update(old)
        self._given_up |= dict.fromkeys(sorted(old, key=lambda each: each.ended_at_s))
        refused = sum(each.ended_at_s + UNRECEIPTED_S < now_s for each in self._refused)
        return _oldest_out(self._given_up, GIVEN_UP_KEPT) + _oldest_out(
            self._refused, len(self._refused) - refused
        )

    @property
    def lacks_receipts(self) -> bool:
        """Whether a request ended a short while ago without its receipt, or can be forgotten."""
        first = next(iter(self._refused), None)
        old = first is not None and first.ended_at_s + UNRECEIPTED_S < time.monotonic()
        return bool(self._awaiting) or old

    def under_way_units(self, adapter_id: AdapterId) -> Units:
        """Return the most that the adapter's requests under way may cost now."""
        return _units_of(self._under_way, adapter_id)

    def beside(self, open_request: OpenRequest) -> list[OpenRequest]:
        """Return the other requests under way for the same adapter: they share its payments."""
        return [
            each
            for each in self._under_way
            if each is not open_request and each.adapter_id == open_request.adapter_id
        ]

    def unreceipted_units(self, adapter_id: AdapterId, unused_units: Units) -> Units:
        """Return the most that requests which ended without a receipt may have cost the channel.

        A node that was killed may have booked what it delivered and lost the bill. Requests that
        were given up justify no more than ``unused_units``, which are signed and not billed, so
        nothing new is signed for them. The sum is at most one request's cap, so that a node which
        breaks off every answer is not paid for all of them.
        """
        lost = min(unused_units, _units_of(self._given_up, adapter_id))
        awaiting = _units_of(self._awaiting - self._under_way, adapter_id)
        return min(self._request_units, awaiting + lost)

    def arrived_unbilled_units(self, adapter_id: AdapterId, unused_units: Units) -> Units:
        """Return what arrived in the answers that the buyer left and that are not billed yet.

        An answer that the node broke off is not one of them: what arrived of it is signed for when
        the node demands it. The bounds are those of ``unreceipted_units``.
        """
        heard = [each for each in self._awaiting - self._under_way if not each.broke]
        lost = [each for each in self._given_up if not each.broke]
        given_up = min(unused_units, _arrived_in(lost, adapter_id))
        return min(self._request_units, _arrived_in(heard, adapter_id) + given_up)

    def shares(self, open_request: OpenRequest) -> bool:
        """Return whether other answers of its adapter run, or have ended and are not billed yet."""
        return any(
            each is not open_request and each.adapter_id == open_request.adapter_id and not each.seq
            for each in (*self._under_way, *self._awaiting)
        )

    def unread_units(self, adapter_id: AdapterId) -> Units:
        """Return what may still come to the cost of the requests that share vouchers; 0 for one."""
        shared = [
            each
            for each in {*self._under_way, *self._awaiting}
            if each.adapter_id == adapter_id and not each.seq
        ]
        if len(shared) < 2:
            return 0
        return sum(max(0, each.most_units - each.units) for each in shared)

    def under_way(self) -> list[OpenRequest]:
        """Return the requests whose answers arrive and are not billed yet."""
        return [each for each in self._under_way if not each.seq]

    def ended(self) -> list[OpenRequest]:
        """Return the requests that ended without a bill and may still get one."""
        return [
            each for each in (*(self._awaiting - self._under_way), *self._given_up) if not each.seq
        ]

    def undelivered_units(self, signed: Mapping[AdapterId, Units], billed: Vector) -> Units:
        """Return what ``signed`` pays for ended requests without a bill, and did not arrive.

        This is the sum over all adapters. What a receipt bills, what arrived and what the requests
        under way may cost is subtracted. ``signed`` and ``billed`` are cumulative.
        """
        ended, found = self.ended(), 0
        for adapter_id in {each.adapter_id for each in ended}:
            resting = signed.get(adapter_id, 0) - billed.get(adapter_id, 0)
            resting -= self.under_way_units(adapter_id) + _arrived_in(ended, adapter_id)
            missing = sum(
                max(0, each.units - each.arrived_units)
                for each in ended
                if each.adapter_id == adapter_id and not each.pardoned
            )
            found += max(0, min(resting, missing))
        return found

    def require_unbilled(self, open_request: OpenRequest, seq: int) -> None:
        """Raise NodeNotTrusted if the request's own answer has brought another receipt before."""
        if open_request.delivered and open_request.seq != seq:
            raise NodeNotTrusted("the node bills one request twice")

    def bill(self, open_request: OpenRequest, seq: int, units: Units) -> OpenRequest | None:
        """Note the receipt that a request's own answer brought (see ``require_unbilled``).

        A receipt that is fetched later fits every equal request, so it may have been noted for the
        wrong one. Then the two bills are exchanged. Returns the other request, which now has the
        other bill or none; None if nothing was exchanged. If no request is equal, the earlier bill
        is that of a repetition, and what is returned stands for it.
        """
        equals = [
            each for each in self._known if each is not open_request and each.equals(open_request)
        ]
        other = next((each for each in equals if each.seq == seq), None)
        if other is None and open_request.seq not in (0, seq):
            other = _nearest((each for each in equals if not each.seq), open_request.billed_units)
            other = other or unasked(
                open_request.adapter_id, open_request.seq, open_request.billed_units
            )
        if other is not None:
            self._hand_over(open_request, other)
        open_request.seq, open_request.billed_units = seq, units
        open_request.delivered = True
        return other

    def hand_on(self, open_request: OpenRequest) -> OpenRequest | None:
        """Move a request's bill to an equal request that ended without one; return that, or None.

        A late receipt fits every equal request, so it may have been assigned to the wrong one.
        """
        equals = (
            each
            for each in (*self._awaiting, *self._given_up)
            if each is not open_request and not each.seq and each.equals(open_request)
        )
        found = _nearest(equals, open_request.billed_units)
        if found is not None:
            self._hand_over(open_request, found)
            self.note(open_request, 0, 0)
        return found

    def match(
        self, signed: SignedReceipt, unused_units: Units, rest_units: Units, *, on_credit: bool
    ) -> Match | None:
        """Return the request behind a receipt that no answer brought; raise NodeNotTrusted.

        Returns None if the bill is above the bound and an answer that it fits still arrives. That
        answer brings the receipt, and with its text the receipt can be checked in full.
        ``unused_units`` were signed for the adapter and are not billed yet, ``rest_units`` may
        still be lost. ``on_credit``: the node may be so far ahead of what is signed, and a bill
        without a request may cost that.
        """
        credit_units = rest_units if on_credit else None

        def bound_units(each: OpenRequest) -> Units:
            credit = rest_units if each.capped else credit_units
            return each.bound_units(unused_units, credit, named=each.is_named_by(signed))

        receipt = signed.receipt
        if len(signed.lines) != 1:
            raise NodeNotTrusted(f"receipt {receipt.seq} bills nothing, or several adapters")
        adapter_id, units = signed.lines[0]
        asked = [
            each
            for each in self._known
            if each.adapter_id == adapter_id
            and not each.seq
            and receipt.request_hash == salted_hash(signed.request_salt, each.request)
        ]
        by_hash = bool(asked)
        if not asked:
            # If the request was written anew on the way, its answer broke off; if it was repeated,
            # it is billed already.
            reach_units = max(unused_units, credit_units or 0)
            if credit_units is not None or units <= unused_units:
                asked = [
                    each
                    for each in self._known
                    if each not in self._under_way
                    and each.adapter_id == adapter_id
                    and not each.seq
                    and units <= bound_units(each)
                    and not each.is_overbilled_by(receipt)
                ]
            if not asked and units <= reach_units:
                asked = [unasked(adapter_id, receipt.seq, units)]
            elif not asked and credit_units is not None:
                return Match(unasked(adapter_id, receipt.seq, units), units - reach_units)
        if not asked:
            raise NodeNotTrusted(
                f"the node hands out a receipt of {units} units for adapter {adapter_id}, and "
                f"{UNACCOUNTED}"
            )

        # An honest node makes the salt of the request's name. If a server on the way has taken the
        # name out, the receipt fits all equal requests.
        asked = [each for each in asked if each.is_named_by(signed)] or asked
        if by_hash and all(each.is_overbilled_by(receipt) for each in asked):
            raise NodeNotTrusted(f"receipt {receipt.seq} bills more than its tokens cost")

        def order(each: OpenRequest) -> tuple[Units, tuple[bool, Units, bool], float, Units]:
            # First the requests that allow the bill, then the one whose text it fits best, then the
            # one that ended first, and one that runs after those, then the one with the smallest
            # bound. So the larger bounds are left for larger bills.
            beyond = max(0, units - bound_units(each))
            return beyond, each.fit(signed), each.ended_at_s or math.inf, each.units

        found = min(asked, key=order)
        beyond_units = order(found)[0]
        if beyond_units and any(each in self._under_way for each in asked):
            return None
        return Match(found, beyond_units)

    def note(self, open_request: OpenRequest, seq: int, units: Units) -> None:
        """Note which receipt billed a request, so that no other can; ``seq`` 0 undoes this."""
        open_request.seq, open_request.billed_units = seq, units if seq else 0
        open_request.billed_tokens = open_request.early = None
        open_request.weighed = False
        if seq:
            self._awaiting.discard(open_request)
            self._given_up.pop(open_request, None)
            self._refused.pop(open_request, None)

    def _hand_over(self, billed: OpenRequest, other: OpenRequest) -> None:
        """Note the bill of one request for another that is equal."""
        tokens = billed.billed_tokens
        self.note(other, billed.seq, billed.billed_units)
        other.billed_tokens = tokens

    @property
    def _known(self) -> tuple[OpenRequest, ...]:
        ended = (*self._awaiting, *self._given_up, *self._refused)
        return (*self._under_way, *(each for each in ended if each not in self._under_way))


def _oldest_out(group: dict[OpenRequest, None], kept: int) -> list[OpenRequest]:
    """Take the oldest requests out of a group, so that ``kept`` remain; return them."""
    out = list(group)[: max(0, len(group) - kept)]
    for each in out:
        del group[each]
    return out


def _nearest(equals: Iterable[OpenRequest], units: Units) -> OpenRequest | None:
    """Return the request whose fair bill is nearest to ``units``; None if there is none."""
    return min(equals, key=lambda each: abs(units - each.fair_units), default=None)


def _arrived_in(group: Iterable[OpenRequest], adapter_id: AdapterId) -> Units:
    return sum(each.arrived_units for each in group if each.adapter_id == adapter_id)


def _units_of(group: Iterable[OpenRequest], adapter_id: AdapterId) -> Units:
    return sum(
        each.units
        for each in group
        if each.adapter_id == adapter_id and not each.seq and not each.refused
    )
