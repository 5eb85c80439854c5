"""Hold against a node what is signed or billed on a channel and not delivered: one account.

Owns how an answer without its receipt counts, what its bill is compared with, and how much may be
lost on a channel. Three cases differ: the node broke the answer off, it let the buyer wait until
the buyer left, or the buyer left for its own reasons.

The account covers all adapters and all processes. It is the sum of what was billed and did not
arrive, which the node's standing keeps, and of what is signed for answers that ended without a bill
and did not arrive, which follows from the vouchers and the kept requests. It may reach one step and
1/32 of all bills. Before more is signed the buyer parts with the node.

Invariants: what counts is that a bill came and its answer did not. It does not matter who ended the
answer, by which error, and whether before or after the bill was found. Answers that end together
are one incident, weighed by what did not arrive. If the buyer left for its own reasons, only what
exceeds the text that could have been on the line is held against the node. What is signed for an
answer under way is not part of the account: it is bounded by a step for each.
"""

from __future__ import annotations

import secrets
import time

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.ledger.open_requests import OpenRequests
from viz.domain.units import AdapterId, Units


class Undelivered:
    """Records in a node's standing what was paid on one channel and not delivered."""

    def __init__(
        self, ledger: BuyerLedger, open_requests: OpenRequests, allowed_units: Units
    ) -> None:
        """``allowed_units`` is a step, which may be lost among the answers that are looked back at.

        A step and 1/32 of all bills may be lost over the channel's life.
        """
        self._ledger = ledger
        self._open_requests = open_requests
        self._allowed_units = allowed_units
        self._incident = ""
        self._incident_at_s = 0.0

    def ended(self, open_request: OpenRequest, *, broken: bool) -> None:
        """Note how a request ended without its receipt.

        ``broken``: the node, or the connection to it, ended the answer.
        """
        stalled, nothing = open_request.stalled, not open_request.arrived_units
        if broken or stalled or nothing:
            # Requests that began before the last incident belong to it: they ran at the same time.
            if not self._incident or open_request.began_s > self._incident_at_s:
                self._incident, self._incident_at_s = secrets.token_hex(8), time.monotonic()
            open_request.incident = self._incident
        if broken or stalled:
            open_request.excused_units = 0
        if not broken and open_request.left_units is not None:
            open_request.units = min(open_request.units, open_request.left_units)

    def billed(self, open_request: OpenRequest) -> None:
        """Weigh a bill that its answer did not bring; do nothing while the answer still arrives."""
        if open_request.weighed or not (open_request.left_at_s or open_request.incident):
            return
        open_request.weighed = True
        standing, seq = self._ledger.standing, self._ledger.channel.seq
        incident, units = open_request.incident, open_request.billed_units
        if units <= open_request.excused_units:
            after = standing.unheard() if incident else standing
        elif incident:
            lost_units = max(0, units - open_request.arrived_units)
            after = standing.billed_broken(incident, seq, lost_units, self._allowed_units)
            after = after.lost(lost_units, self._all_bills, self._allowed_units)
        elif open_request.excused_units:
            lost_units = units - open_request.excused_units
            after = standing.billed_left(seq, lost_units, self._allowed_units)
            after = after.lost(lost_units, self._all_bills, self._allowed_units)
        else:
            return
        self._ledger.commit_standing(after)

    # the account

    @property
    def _all_bills(self) -> Units:
        return sum(self._ledger.channel.spent.values())

    @property
    def rest_units(self) -> Units:
        """What may still be lost on the channel; 0 if nothing."""
        standing = self._ledger.standing
        return max(0, standing.rest_units(self._all_bills, self._allowed_units))

    def _held_units(self, adapter_id: AdapterId, required_units: Units) -> Units:
        """Return what the node holds for nothing once ``required_units`` are signed."""
        channel = self._ledger.channel
        signed = {**channel.vector}
        signed[adapter_id] = max(required_units, channel.signed_units(adapter_id))
        return self._open_requests.undelivered_units(signed, channel.spent)

    def overdrawn(self, adapter_id: AdapterId, required_units: Units) -> bool:
        """Say whether signing so much for the adapter would exceed what may be lost."""
        if required_units <= self._ledger.channel.signed_units(adapter_id):
            return False
        return self._held_units(adapter_id, required_units) > self.rest_units

    def judge(self, adapter_id: AdapterId, required_units: Units) -> None:
        """Hold against the node what is signed for now and rests on answers without a bill.

        ``required_units`` is what the node demands for the adapter. Call this before it is signed,
        and ``VoucherSigner.require_trust`` after it.
        """
        channel, standing = self._ledger.channel, self._ledger.standing
        if required_units > channel.signed_units(adapter_id):
            held_units = self._held_units(adapter_id, required_units)
            standing = standing.owing(held_units, self._all_bills, self._allowed_units)
        billed_units = channel.spent_units(adapter_id)
        if required_units > billed_units + self._open_requests.under_way_units(adapter_id):
            for each in self._open_requests.ended():
                if each.adapter_id == adapter_id and each.broke and not each.pardoned:
                    standing = standing.signed_unbilled(each.incident, channel.seq)
        self._ledger.commit_standing(standing)

    def forget_old(self) -> None:
        """Give up the requests that the node had time to bill; call it if no receipt is missing.

        What is signed for the oldest ones, which are forgotten, is lost.
        """
        channel = self._ledger.channel
        before = self._open_requests.undelivered_units(channel.vector, channel.spent)
        for each in self._open_requests.forget_old():
            self._ledger.drop_request(each)
        after = self._open_requests.undelivered_units(channel.vector, channel.spent)
        if before > after:
            standing = self._ledger.standing
            self._ledger.commit_standing(
                standing.lost(before - after, self._all_bills, self._allowed_units)
            )

    def pardon(self) -> None:
        """Take the answers without a bill so far out of the account; raise StoreError."""
        for each in self._open_requests.ended():
            each.pardoned = True
            self._ledger.keep_request(each)

    def answered(self, *, empty: bool) -> None:
        """Note that an answer ended well and was billed, with text or without any."""
        self._ledger.commit_standing(self._ledger.standing.delivered(empty=empty))
