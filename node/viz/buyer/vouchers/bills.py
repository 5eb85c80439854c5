"""Keep the receipts of one channel, each with the request that it bills.

Owns the order in which a bill is checked, written and noted. ``viz.buyer.ledger.open_requests``
finds the request; ``viz.buyer.vouchers.undelivered`` weighs a bill that its answer did not bring.

Invariant: a request counts as billed only once its receipt is in the ledger. If the receipt cannot
be written, it is read again from the node later, and finds its request then.
"""

from __future__ import annotations

import structlog

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.ledger.open_requests import OpenRequests
from viz.buyer.terms.checks import with_receipt
from viz.buyer.vouchers.undelivered import Undelivered
from viz.domain.display import amount
from viz.domain.eip712 import Domain
from viz.domain.ports.chain import Deployment
from viz.domain.receipt import SignedReceipt

_log = structlog.get_logger()


class Bills:
    """The receipts of one channel."""

    def __init__(
        self,
        ledger: BuyerLedger,
        open_requests: OpenRequests,
        undelivered: Undelivered,
        domain: Domain,
        deployment: Deployment,
    ) -> None:
        self._ledger = ledger
        self._open_requests = open_requests
        self._undelivered = undelivered
        self._domain = domain
        self._deployment = deployment

    def take(self, signed: SignedReceipt, open_request: OpenRequest) -> None:
        """Keep the receipt that a request's answer brought, after it was checked against it.

        Raises NodeRefused if the node did not sign it, InvalidSignature if it contradicts the
        receipts before it, NodeNotTrusted for a second receipt of one request, StoreError.
        """
        ledger, adapter_id = self._ledger, open_request.adapter_id
        after, link = with_receipt(ledger.channel, self._domain, signed)
        self._open_requests.require_unbilled(open_request, link.seq)
        known = after is ledger.channel
        if not known:
            ledger.commit_receipt(after, link, open_request.name)
        other = self._open_requests.bill(open_request, link.seq, signed.receipt.amount_units)
        if other is not None and other.seq:
            self._undelivered.billed(other)
        if known:
            ledger.drop_request(open_request)
        if ledger.channel.billed_units(adapter_id) > ledger.channel.signed_units(adapter_id):
            ledger.commit_standing(ledger.standing.on_credit())

    def take_late(self, signed: SignedReceipt) -> bool:
        """Keep a receipt that did not come with its answer, if it matches one of our requests.

        Returns False if its answer is still arriving and will bring it. Raises as ``take`` does,
        and NodeNotTrusted if no request matches, or if its counts are not those of what arrived
        (``OpenRequest.miscount_of``), or it bills more than an honest node can have delivered
        (``OpenRequest.bound_units``), and the buyer does not forgive that much.
        """
        ledger = self._ledger
        after, link = with_receipt(ledger.channel, self._domain, signed)
        if after is ledger.channel:
            return True
        unused = sum(ledger.channel.unused_units(key) for key, _ in link.lines)
        rest = self._undelivered.rest_units
        match = self._open_requests.match(signed, unused, rest, on_credit=ledger.standing.credits)
        if match is None:
            return False
        match = match.counted(signed)
        open_request, beyond_units, _ = match
        standing = ledger.standing
        if beyond_units > standing.forgiven_units:
            raise match.refusal(signed, self._deployment)
        if beyond_units:
            ledger.commit_standing(standing.billed_beyond(beyond_units))
        ledger.commit_receipt(after, link, open_request.name)
        self._open_requests.note(open_request, link.seq, signed.receipt.amount_units)
        if not open_request.ended_at_s:
            open_request.early = signed
        counts = signed.receipt.prompt_tokens, signed.receipt.completion_tokens
        open_request.billed_tokens = counts
        if open_request.incident:
            _log.warning(
                "an answer that had broken off was billed",
                cost=amount(open_request.billed_units, self._deployment),
            )
        self._undelivered.billed(open_request)
        return True
