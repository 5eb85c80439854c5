"""Hold against a node what it bills and does not deliver.

Owns how an answer without its receipt counts, and what its bill is compared with. Three cases
differ: the node broke the answer off, it let the buyer wait until the buyer left, or the buyer left
for its own reasons.

Invariants: what counts is that a bill came and its answer did not. It does not matter who ended the
answer, by which error, and whether before or after the bill was found. Answers that end together
are one incident, weighed by what did not arrive. If the buyer left for its own reasons, only what
exceeds the text that could have been on the line is held against the node.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

from viz.buyer.ledger import BuyerLedger
from viz.buyer.open_requests import OpenRequest
from viz.domain.units import Units


class Undelivered:
    """Records in a node's standing what it billed on one channel and did not deliver."""

    def __init__(self, ledger: BuyerLedger, allowed_units: Units) -> None:
        """``allowed_units`` may be lost in all, among the answers that are looked back at."""
        self._ledger = ledger
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
            all_units = sum(self._ledger.channel.spent.values())
            after = after.lost(lost_units, all_units, self._allowed_units)
        elif open_request.excused_units:
            lost_units = units - open_request.excused_units
            after = standing.billed_left(seq, lost_units, self._allowed_units)
        else:
            return
        self._ledger.commit_standing(after)

    def signed_for(self, unbilled: Iterable[OpenRequest], lost_units: Units) -> None:
        """Hold against the node the broken answers without a bill that are signed for now.

        ``lost_units`` of what is signed for them did not arrive.
        """
        unbilled = list(unbilled)
        standing = self._ledger.standing
        if unbilled:
            standing = standing.owing(lost_units, self._allowed_units)
        for each in unbilled:
            standing = standing.signed_unbilled(each.incident, self._ledger.channel.seq)
        self._ledger.commit_standing(standing)

    def answered(self, *, empty: bool) -> None:
        """Note that an answer ended well and was billed, with text or without any."""
        self._ledger.commit_standing(self._ledger.standing.delivered(empty=empty))
