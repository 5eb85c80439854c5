"""Hold against a node what is signed or billed on a channel and not delivered: one account.

Owns how an answer without its receipt counts, what its bill is compared with, and how much may be
lost or left over on a channel. Three cases differ: the node broke the answer off, it let the buyer
wait until the buyer left, or the buyer left for its own reasons.

The account covers all adapters and all processes. What a node has and did not deliver is either
lost, which is what was billed and did not arrive, or left over (``viz.buyer.vouchers.left_over``).
Both are measured by one allowance, which the node's standing keeps: a step at the default caps, or
the most that the buyer ever had signed ahead at once for answers under way.
 - Lost: the allowance and 1/32 of all bills. Then the buyer parts with the node. What is signed for
   answers that broke off without a bill counts as lost if the node demands more on top of it.
 - Left over: the allowance plus the sum of all bills, since answers that end well at an honest node
   leave about as much as they cost. Beyond that the buyer refuses to pay another adapter for now,
   which is held against nobody. Beyond half of it, nothing is signed without a demand.

Invariants: a bill whose answer did not come counts, whoever ended the answer, by whichever error,
before or after the bill was found. Answers that end together
are one incident, weighed by what did not arrive. If the buyer left for its own reasons, or the
answer broke off after some text, a bill for what could have been in transit is no incident; if the
network cut answer after answer, the sum of the cuts is. What
is signed for an answer under way is not part of the account: it is bounded by a step for each.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

from viz.buyer.ledger.counted import count_bill, count_up, note_counted
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.ledger.open_requests import OpenRequests
from viz.buyer.vouchers.left_over import ahead_units, left_over
from viz.domain.display import amount
from viz.domain.node_channel import Vector
from viz.domain.ports.chain import Deployment
from viz.domain.units import AdapterId, Units
from viz.errors import TooMuchLeftOver

# So many adapters are named in a refusal, those with the most.
NAMED: Final = 3


class Undelivered:
    """Records in a node's standing what was paid on one channel and not delivered."""

    def __init__(
        self, ledger: BuyerLedger, open_requests: OpenRequests, deployment: Deployment
    ) -> None:
        self._ledger = ledger
        self._open_requests = open_requests
        self._deployment = deployment
        self._incident = ""
        self._incident_at_s = 0.0

    def ended(self, open_request: OpenRequest, *, broken: bool) -> None:
        """Note how a request ended without its receipt.

        ``broken``: the node, or the connection to it, ended the answer.
        """
        self.note_ahead(self._ledger.channel.vector)
        stalled, nothing = open_request.stalled, not open_request.arrived_units
        if broken or stalled or nothing:
            # Requests that began before the last incident belong to it: they ran at the same time.
            if not self._incident or open_request.began_s > self._incident_at_s:
                self._incident, self._incident_at_s = secrets.token_hex(8), time.monotonic()
            open_request.incident = self._incident
        if broken or stalled:
            if not nothing:
                # After a stall nothing is in transit any more.
                on_line_units = open_request.excused_units if broken else open_request.arrived_units
                open_request.on_line_units = on_line_units
            open_request.excused_units = 0
        elif open_request.provoked:
            # A node that demands what cannot be paid would else be paid each time for the line.
            open_request.excused_units = open_request.arrived_units
        if not broken and open_request.leaving_units is not None:
            open_request.units = min(open_request.units, open_request.leaving_units)

    def billed(self, open_request: OpenRequest) -> None:
        """Weigh a bill that its answer did not bring; do nothing while the answer still arrives."""
        count_bill(self._ledger, open_request)
        if open_request.weighed or not (open_request.ended_at_s or open_request.incident):
            return
        open_request.weighed = True
        standing, seq = self._ledger.standing, self._ledger.channel.seq
        incident, units = open_request.incident, open_request.billed_units
        if units <= open_request.excused_units:
            after = standing.not_arrived() if incident else standing
        elif incident:
            lost_units = max(0, units - open_request.arrived_units)
            # A node that does not see that the network cut an answer goes on with what is signed.
            cut = open_request.cut and open_request.arrived_units
            if cut or units <= open_request.on_line_units:
                beyond = cut and lost_units
                after = standing.cut_off(incident) if beyond else standing.not_arrived()
                # One of which nothing arrived may never have reached the node.
                others = [each for each in self._open_requests.ended() if each.arrived_units]
                if all(each.incident != incident for each in others):
                    after = after.billed_late(incident)
            else:
                after = standing.billed_broken(incident, seq, lost_units)
            after = after.lost(lost_units, self._all_bills)
        else:
            lost_units = units - (open_request.excused_units or open_request.arrived_units)
            after = standing.billed_left(seq, max(0, lost_units))
            after = after.lost(max(0, lost_units), self._all_bills)
        early = open_request.early
        if early is not None and (fault := open_request.miscount_of(early)):
            after = after.distrusting(f"receipt {early.receipt.seq} {fault}")
        self._ledger.commit_standing(after)

    # the account

    @property
    def _all_bills(self) -> Units:
        return sum(self._ledger.channel.billed.values())

    @property
    def rest_units(self) -> Units:
        """What may still be lost on the channel; 0 if nothing."""
        return max(0, self._ledger.standing.rest_units(self._all_bills))

    @property
    def _room_units(self) -> Units:
        """What may be left over."""
        standing = self._ledger.standing
        return standing.allowed_units + standing.waived_units + self._all_bills

    def _raised(self, adapter_id: AdapterId, units: Units) -> Vector:
        channel = self._ledger.channel
        return {**channel.vector, adapter_id: max(units, channel.signed_units(adapter_id))}

    def _undelivered_units(self, signed: Vector) -> Units:
        """Return what ``signed`` pays for answers that ended without a bill and did not arrive."""
        return self._open_requests.undelivered_units(signed, self._ledger.channel.billed)

    def _undelivered_at(self, adapter_id: AdapterId, required_units: Units) -> Units:
        """Return what the node holds for broken answers if it demands more on top of them; else 0.

        Only a demand for the adapter of such answers accuses the node: whoever lost their bills in
        a break of the network may serve another adapter.
        """
        if not self._undelivered_units({adapter_id: required_units}):
            return 0
        return self._undelivered_units(self._raised(adapter_id, required_units))

    def _left_over(self, signed: Vector) -> dict[AdapterId, Units]:
        return left_over(self._ledger.channel, self._open_requests, signed)

    def _is_full(self, adapter_id: AdapterId, units: Units) -> bool:
        """Say whether too much would be left over; answers that began in time may go on."""
        if any(each.goes_on for each in self._under_way(adapter_id)):
            return False
        return sum(self._left_over(self._raised(adapter_id, units)).values()) > self._room_units

    def _under_way(self, adapter_id: AdapterId) -> list[OpenRequest]:
        under_way = self._open_requests.under_way()
        return [each for each in under_way if each.adapter_id == adapter_id]

    def takeable_units(self, open_request: OpenRequest) -> Units:
        """Return the most that the node can take for an answer that ended without a bill.

        This is what is signed for the adapter, less what is billed, what the day counts for other
        answers without a bill, and what has arrived of those under way.
        """
        adapter_id, requests = open_request.adapter_id, self._open_requests
        others = [each for each in requests.ended() if each is not open_request]
        counted = [each.counted_units or 0 for each in others if each.adapter_id == adapter_id]
        arriving = [each.arrived_units for each in self._under_way(adapter_id)]
        unused_units = self._ledger.channel.unused_units(adapter_id)
        most_units = max(open_request.most_units, open_request.asked_units)
        return min(most_units, max(0, unused_units - sum(counted) - sum(arriving)))

    def note_counted(self, open_request: OpenRequest, units: Units) -> None:
        """Note what the buyer's day has counted for an answer without a bill."""
        note_counted(self._ledger, open_request, units)

    def begin(self, open_request: OpenRequest) -> None:
        """Note whether the request begins while not too much is left over for other adapters."""
        others = {**self._ledger.channel.vector}
        others.pop(open_request.adapter_id, None)
        open_request.goes_on = sum(self._left_over(others).values()) <= self._room_units

    def overdrawn(self, adapter_id: AdapterId, required_units: Units) -> bool:
        """Say whether a demand of so much would be refused, or be held against the node."""
        if required_units <= self._ledger.channel.signed_units(adapter_id):
            return False
        return self._undelivered_at(adapter_id, required_units) > self.rest_units or self._is_full(
            adapter_id, required_units
        )

    def unread_units(self, adapter_id: AdapterId, required_units: Units) -> Units:
        """Return how far a demand may be above the ceiling; 0 if too much would be left over.

        The vouchers of an adapter's answers pay for each of them, and so also for one whose reader
        pauses or is gone: it may have gone to its end. What is signed for text that was
        not read is left over. So much can be demanded at once that only the allowance bounds it.
        """
        standing, signed = self._ledger.standing, self._raised(adapter_id, required_units)
        room_units = standing.allowed_units + standing.waived_units
        if sum(self._left_over(signed).values()) > room_units:
            return 0
        if self.overdrawn(adapter_id, required_units):
            return 0
        return self._open_requests.unread_units(adapter_id)

    def may_run_ahead(self, adapter_id: AdapterId, units: Units) -> bool:
        """Say whether so much may be signed for the adapter without a demand."""
        if units <= self._ledger.channel.signed_units(adapter_id):
            return True
        signed = self._raised(adapter_id, units)
        spare = sum(self._left_over(signed).values()) <= self._room_units // 2
        return spare and self._undelivered_units(signed) <= self.rest_units

    def note_ahead(self, signed: Vector) -> None:
        """Note how much is signed ahead for answers under way: a break may cost that once."""
        units = ahead_units(self._ledger.channel, self._open_requests, signed)
        self._ledger.commit_standing(self._ledger.standing.signed_ahead(units))

    def judge(self, adapter_id: AdapterId, required_units: Units) -> None:
        """Hold against the node what is signed for now and rests on answers without a bill.

        ``required_units`` is what the node demands for the adapter. Call this before it is signed,
        and ``VoucherSigner.require_trust`` after it. Raises TooMuchLeftOver, and then holds nothing
        against the node. What rests on such answers is in the day's sum before it is signed.
        """
        channel, standing = self._ledger.channel, self._ledger.standing
        if required_units > channel.signed_units(adapter_id):
            standing = standing.before_signing(
                self._undelivered_at(adapter_id, required_units), self._all_bills
            )
            if not standing.fault and self._is_full(adapter_id, required_units):
                raise self._refusal(adapter_id, required_units)
            for each in self._under_way(adapter_id):
                each.goes_on = True
        requests = self._open_requests
        known_units = channel.billed_units(adapter_id) + requests.under_way_units(adapter_id)
        resting_units = required_units - known_units - requests.unread_units(adapter_id)
        # The demand rests on those first of which the most arrived: others may never have reached
        # the node.
        for each in sorted(requests.ended(), key=lambda each: -each.arrived_units):
            if resting_units > 0 and each.adapter_id == adapter_id:
                if not standing.fault:
                    count_up(self._ledger, each, min(resting_units, each.units))
                if each.broke and not each.pardoned:
                    standing = standing.signed_unbilled(each.incident, channel.seq)
                resting_units -= each.units
        self._ledger.commit_standing(standing)

    def _refusal(self, adapter_id: AdapterId, required_units: Units) -> TooMuchLeftOver:
        here, found = self._deployment, self._left_over(self._raised(adapter_id, required_units))
        most = sorted(found, key=lambda each: -found[each])
        named = ", ".join(
            f"{amount(found[each], here)} for adapter {each}" for each in most[:NAMED]
        )
        rest = f" and less for {len(most) - NAMED} more" if len(most) > NAMED else ""
        return TooMuchLeftOver(
            "nothing more is signed for another adapter of this node now: of what was paid ahead, "
            f"{amount(sum(found.values()), here)} is left over ({named}{rest}), and at most "
            f"{amount(self._room_units, here)} may be. Ask those adapters, whose next answers use "
            "it up first; or `viz channel forgive` leaves it with the node"
        )

    def forget_old(self) -> None:
        """Give up the requests that the node had time to bill; call it if no receipt is missing.

        What is signed for the oldest ones, which are forgotten, is lost.
        """
        channel = self._ledger.channel
        before = self._open_requests.undelivered_units(channel.vector, channel.billed)
        for each in self._open_requests.forget_old():
            self._ledger.drop_request(each)
        after = self._open_requests.undelivered_units(channel.vector, channel.billed)
        if before > after:
            standing = self._ledger.standing
            self._ledger.commit_standing(standing.lost(before - after, self._all_bills))

    def forgive(self, forgiven_units: Units) -> None:
        """Begin the account anew: nothing is lost, and what is left over may be; raise StoreError.

        Up to ``forgiven_units`` of bills are paid beyond what arrived.
        """
        for each in self._open_requests.ended():
            each.pardoned = True
            self._ledger.keep_request(each)
        left_over_units = sum(self._left_over(self._ledger.channel.vector).values())
        self._ledger.commit_standing(
            self._ledger.standing.forgiven(forgiven_units, left_over_units)
        )

    def answered(self, *, empty: bool) -> None:
        """Note that an answer ended well and was billed, with text or without any."""
        self._ledger.commit_standing(self._ledger.standing.delivered(empty=empty))
