"""Sign and deliver the vouchers of one channel, and bound how much may be signed.

Owns the ceiling under which a node is paid, the signing of vouchers and their delivery. An open
request says how much it may cost (``viz.buyer.ledger.open_requests``).

Invariants: no voucher is signed before its end point is on disk. An adapter's signed amount never
exceeds what its receipts bill, plus what its requests under way may cost, plus what its requests
without a receipt may have cost (one request's cap at most). The last is signed only if the node
demands it, and what did not arrive of it is bounded over all adapters
(``viz.buyer.vouchers.undelivered``). An adapter that was not asked for gets nothing: its ceiling is
0. A receipt counts only if one request accounts for it. If the buyer reads a chain, deposit, payer
and settled total come from there. If not, the node's word on them is believed up to what was signed
for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.node_standing import NodeStanding
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.ledger.open_requests import OpenRequests
from viz.buyer.terms.checks import Limits
from viz.buyer.vouchers.bills import Bills
from viz.buyer.vouchers.held_by_node import HeldByNode
from viz.buyer.vouchers.signed_vouchers import (
    base_named,
    demand_of,
    require_own_vouchers,
    signed_row,
    within_deposit,
)
from viz.buyer.vouchers.undelivered import Undelivered
from viz.client.node_client import NodeClient
from viz.domain.buyer_channel import BuyerChannel, draft_final, draft_voucher, raise_signed
from viz.domain.claim_rows import SignedVoucher
from viz.domain.display import amount
from viz.domain.eip712 import settlement_domain
from viz.domain.node_channel import PresentedVoucher, Vector
from viz.domain.ports.chain import ChannelState, Deployment
from viz.domain.receipt import SignedReceipt
from viz.domain.trust import REPLICAS, way_back
from viz.domain.units import AdapterId, Units
from viz.domain.usage import sum_of
from viz.errors import (
    DepositExceeded,
    LineBelowBest,
    NodeNotTrusted,
    NodeRefused,
    PaymentRequired,
    PriceAboveCap,
    StaleVoucher,
    StoreError,
)
from viz.protocol.messages import ChannelView

ATTEMPTS: Final = 6


class VoucherSigner:
    """Signs for one channel; one instance per process and channel."""

    def __init__(
        self,
        api: NodeClient,
        ledger: BuyerLedger,
        deployment: Deployment,
        limits: Limits,
        *,
        reads_chain: bool = False,
    ) -> None:
        """With ``reads_chain``, the channel's state comes from ``observe``, not from the node."""
        self._open_requests = OpenRequests(limits.request_units, ledger.unbilled)
        self.undelivered = Undelivered(ledger, self._open_requests, deployment)
        self._reads_chain = reads_chain
        self._api = api
        self._ledger = ledger
        self._deployment = deployment
        self.domain = settlement_domain(deployment.chain_id, deployment.settlement)
        self._bills = Bills(ledger, self._open_requests, self.undelivered, self.domain, deployment)
        self._base_units: Units = ledger.channel.settled_units
        self.held = HeldByNode()
        self._paying = asyncio.Lock()

    @property
    def channel(self) -> BuyerChannel:
        """What was deposited, signed and billed so far."""
        return self._ledger.channel

    # whether the node is trusted

    def distrust(self, fault: str) -> None:
        """Sign nothing more for the node, in this process and in later ones."""
        self._ledger.commit_standing(self._ledger.standing.distrusting(fault))

    def forgive(self, forgiven_units: Units = 0) -> None:
        """Trust the node again, and pay up to ``forgiven_units`` of bills beyond what arrived."""
        self.undelivered.forgive(forgiven_units)

    @property
    def standing(self) -> NodeStanding:
        """What is believed of the node, allowed to it and held against it."""
        return self._ledger.standing

    @property
    def fault(self) -> str:
        """What the node was caught at; empty while it is trusted."""
        return self._ledger.standing.fault

    def require_trust(self) -> None:
        """Raise NodeNotTrusted if the node is no longer trusted."""
        if self.fault:
            way = way_back(self.fault)
            raise NodeNotTrusted(f"nothing more is asked of this node: {self.fault}. {way}")

    # what may be signed

    @contextmanager
    def open_request(self, adapter_id: AdapterId, request: bytes) -> Iterator[OpenRequest]:
        """Yield a new open request; the caller raises its amounts as the answer arrives."""
        with self._open_requests.open(adapter_id, request) as open_request:
            self.undelivered.begin(open_request)
            yield open_request

    def keep(self, open_request: OpenRequest) -> None:
        """Make a request durable before it is sent. Blocks; raises StoreError."""
        self._ledger.keep_request(open_request)

    def leave_unreceipted(
        self, open_request: OpenRequest, *, broken: bool = False, refused: bool = False
    ) -> None:
        """Remember that a request ended without its receipt. If not ``broken``, the buyer left."""
        adapter_id = open_request.adapter_id
        if open_request.delivered or open_request.ended_at_s:
            return
        self.undelivered.ended(open_request, broken=broken)
        if open_request.seq:
            # The bill was found while the answer was still under way.
            open_request.ended_at_s = time.monotonic()
            self.undelivered.billed(open_request)
            return
        unused = self.channel.unused_units(adapter_id)
        for each in self._open_requests.leave(open_request, unused, refused=refused):
            self._ledger.drop_request(each)
        # If this cannot be written, the record from before the request was sent stays valid.
        with suppress(StoreError):
            self._ledger.keep_request(open_request)
            if open_request.arrived_units and not unused:
                self._ledger.commit_standing(self.standing.on_credit())

    def drop(self, open_request: OpenRequest, *, refused: bool = False) -> None:
        """Forget a request that was never sent or was free; a bill for it is a lie.

        If ``refused``, a bill for it is a broken answer's: a server on the way may have refused it.
        """
        if open_request.seq and (other := self._open_requests.hand_on(open_request)) is not None:
            self.undelivered.billed(other)
        elif open_request.seq or refused:
            self.leave_unreceipted(open_request, broken=True, refused=refused)
        else:
            self._ledger.drop_request(open_request)

    @property
    def lacks_receipts(self) -> bool:
        """Whether a request ended without its receipt, or receipts arrived with a gap."""
        return self._open_requests.lacks_receipts or bool(self.channel.unlinked)

    def shares(self, open_request: OpenRequest) -> bool:
        """Return whether other answers of its adapter may be paid by the same vouchers."""
        return self._open_requests.shares(open_request)

    def received_units(self, adapter_id: AdapterId) -> Units:
        """Return what receipts bill for the adapter, and what arrived of answers left unbilled."""
        unused = self.channel.unused_units(adapter_id)
        arrived = self._open_requests.arrived_unbilled_units(adapter_id, unused)
        return self.channel.billed_units(adapter_id) + arrived

    def _unforced_units(self, adapter_id: AdapterId) -> Units:
        """Return the most that is signed for the adapter without a demand of the node."""
        return self.received_units(adapter_id) + self._open_requests.under_way_units(adapter_id)

    def ceiling_units(self, adapter_id: AdapterId) -> Units:
        """Return the most that may be signed for the adapter now, over the channel's life.

        It contains what requests may have cost whose bill the node may have lost.
        """
        unused = self.channel.unused_units(adapter_id)
        ended = self._open_requests.unreceipted_units(adapter_id, unused)
        under_way = self._open_requests.under_way_units(adapter_id)
        return self.channel.billed_units(adapter_id) + ended + under_way

    def beside(self, open_request: OpenRequest) -> list[OpenRequest]:
        """Return the other requests under way for the same adapter: they share its payments."""
        return self._open_requests.beside(open_request)

    def allows(self, adapter_id: AdapterId, required_units: Units) -> bool:
        """Say whether so much may be signed for the adapter, or was already."""
        if required_units <= self.channel.signed_units(adapter_id):
            return True
        beyond_units = required_units - self.ceiling_units(adapter_id)
        return beyond_units <= self.undelivered.unread_units(adapter_id, required_units)

    def rests_on_unbilled(self, adapter_id: AdapterId, required_units: Units) -> bool:
        """Say whether only text without a bill, which is not arriving, justifies a requirement."""
        under_way = self._open_requests.under_way_units(adapter_id)
        known_units = self.channel.billed_units(adapter_id) + under_way
        return known_units < required_units and self.allows(adapter_id, required_units)

    def overdrawn(self, adapter_id: AdapterId, required_units: Units) -> bool:
        """Say whether a demand of so much would be refused, or be held against the node."""
        return self.undelivered.overdrawn(adapter_id, required_units)

    def _judge(self, adapter_id: AdapterId, required_units: Units) -> None:
        self.undelivered.judge(adapter_id, required_units)
        self.require_trust()

    async def cover(
        self,
        adapter_id: AdapterId,
        *,
        required_units: Units,
        wanted_units: Units,
        ahead_units: Units = 0,
        base_units: Units | None = None,
    ) -> None:
        """Sign ``wanted_units`` for the adapter if allowed, but at least ``required_units``.

        Both are cumulative. The node has accepted what it demanded when this returns. While it
        delivers on credit, ``ahead_units`` are added to what it names, then twice as much. Raises
        PriceAboveCap, TooMuchLeftOver, DepositExceeded, NodeRefused, and the node's refusals.
        """
        async with self._paying:
            # Read under the lock: a request may have been billed while this call waited for it.
            ceiling = self.ceiling_units(adapter_id)
            if not self.allows(adapter_id, required_units):
                raise PriceAboveCap(
                    f"the node requires {amount(required_units, self._deployment)} for adapter "
                    f"{adapter_id}; what was asked and has arrived justifies "
                    f"{amount(ceiling, self._deployment)}"
                )
            self._judge(adapter_id, required_units)
            if base_units is not None:
                self._move_base(base_units)
            targets = {adapter_id: self._target(adapter_id, required_units, wanted_units)}
            attempts = ATTEMPTS
            while attempts > 0:
                attempts -= 1
                if self.held.units(adapter_id) >= targets[adapter_id]:
                    return
                try:
                    await self._deliver(targets)
                except (StaleVoucher, LineBelowBest) as error:
                    self.follow(error)
                except PaymentRequired as error:
                    # The node delivered on credit more than the voucher pays, and delivers on.
                    asked_for, units = demand_of(error)
                    if self.allows(asked_for, units) and units > targets.get(asked_for, 0):
                        self._judge(asked_for, units)
                        targets[asked_for] = self._target(asked_for, units, units + ahead_units)
                        if targets[asked_for] > units:  # this ends, at the ceiling
                            ahead_units, attempts = 2 * ahead_units, ATTEMPTS
                    elif required_units:
                        raise
                    else:
                        return  # signed ahead, not demanded: the node will say what it needs
        if required_units:
            raise NodeRefused(
                "the node refuses every voucher, each time for another reason: it is out of step, "
                f"and nothing more is signed now. {REPLICAS}"
            )

    def _target(self, adapter_id: AdapterId, required_units: Units, wanted_units: Units) -> Units:
        """Return ``required_units``, or ``wanted_units`` as far as nothing forbids more."""
        wanted_units = min(wanted_units, self._unforced_units(adapter_id))
        if not self.undelivered.may_run_ahead(adapter_id, wanted_units):
            wanted_units = 0
        return max(required_units, within_deposit(self.channel, adapter_id, wanted_units))

    def riding(
        self, opened: OpenRequest, ahead_units: Units
    ) -> tuple[PresentedVoucher, Units] | None:
        """Return a voucher to send with the request, and the amount that it pays the adapter.

        None if the node has enough, was never seen to ask before it serves, or if the deposit or
        the ceiling is too small: then it says what it needs. Raises StoreError.
        """
        adapter_id, ceiling = opened.adapter_id, self._unforced_units(opened.adapter_id)
        others = self._open_requests.under_way_units(adapter_id) - opened.units
        least = self.channel.billed_units(adapter_id) + others + opened.first_units
        target = within_deposit(self.channel, adapter_id, min(least + ahead_units, ceiling))
        enough = target < least or self.held.units(adapter_id) >= least
        if enough or not (self.held.asks and self.undelivered.may_run_ahead(adapter_id, target)):
            return None
        return (signed[1], target) if (signed := self._sign({adapter_id: target})) else None

    async def _deliver(self, targets: Mapping[AdapterId, Units]) -> None:
        signed = self._sign(targets)
        if signed is None:
            self.held.took(self.channel.vector)
            return
        after, presented = signed
        view = await self._api.voucher(presented)
        self.held.took(after.vector)
        self.note(view)

    def _sign(self, targets: Vector) -> tuple[BuyerChannel, PresentedVoucher] | None:
        """Write the end points to disk and return channel and voucher; None if it pays nothing."""
        raised = channel = self.channel
        try:
            # The node refuses a voucher that leaves out what any adapter delivered on credit.
            for adapter_id, units in (*targets.items(), *channel.billed.items()):
                raised = raise_signed(raised, adapter_id, units)
        except DepositExceeded as error:
            left = amount(max(0, channel.limit_units - channel.total_units), self._deployment)
            raise DepositExceeded(
                f"the deposit has only {left} left to sign for: deposit more (`viz channel open`)",
                **error.extensions,
            ) from error
        after, draft = draft_voucher(raised, self._base_units)
        if draft is None:
            return None
        self.undelivered.note_ahead(after.vector)
        # Not in a thread: ``after`` would overwrite a receipt that is committed meanwhile.
        self._ledger.commit_signing(after)
        row, at = signed_row(self._ledger.session_key, self.domain, draft), self._deployment
        return after, PresentedVoucher(at.chain_id, at.settlement, after.signer, after.node, row)

    async def sign_final(self) -> SignedVoucher | None:
        """Return the voucher to close with: what receipts bill, and nothing that was signed ahead.

        It has no lines if nothing is billed beyond the base. None if another voucher was signed for
        the same sum. Raises StaleVoucher, DepositExceeded, StoreError.
        """
        async with self._paying:
            after, draft = draft_final(self.channel, self._base_units)
            if draft is None:
                return None
            if draft.lines:
                self._ledger.commit_final(after, draft.voucher.settled_units + sum_of(draft.lines))
            # From now on the node may hold less than the vouchers that it accepted before.
            self.held.clear()
            return signed_row(self._ledger.session_key, self.domain, draft)

    def follow(self, refusal: StaleVoucher | LineBelowBest) -> None:
        """Move to the base that the node's refusal names; raise StaleVoucher, BooksMismatch."""
        self._base_units = base_named(self.channel, refusal)

    # what the node says

    def note(self, view: ChannelView) -> None:
        """Take over what a channel's view says of base, deposit and settled total.

        Raises NodeNotTrusted if the payer signed no deposit here, and BooksMismatch if the settled
        total, or a voucher that the node holds, is one that this ledger never signed.
        """
        require_own_vouchers(self.channel, view.base_units, view.best)
        if not self._reads_chain:
            known = self.channel
            if view.settled_units < known.settled_units or view.seq < known.seq:
                return  # a newer view has arrived before this one, or a server on the way kept it
            self._ledger.commit_said(self._ledger.standing.believed(view))
        self._move_base(view.base_units)

    def observe(self, seen: ChannelState) -> None:
        """Take over what the buyer's own chain says of the channel; raise BooksMismatch.

        It replaces what the node said. A reading that is older than the last one is ignored: the
        RPC endpoints behind one address are not all at the same block.
        """
        if seen.settled_units >= self.channel.proven_units:
            self._ledger.commit_observation(seen)
            self._move_base(seen.settled_units)

    def _move_base(self, base_units: Units) -> None:
        # This key signed nothing at any other total, so vouchers stay on the base that is known.
        if base_units in self.channel.points:
            self._base_units = max(self._base_units, base_units)

    # bills

    def take(self, signed: SignedReceipt, open_request: OpenRequest) -> None:
        """Keep the receipt that a request's answer brought; see ``Bills.take``."""
        self._bills.take(signed, open_request)

    def take_late(self, signed: SignedReceipt) -> bool:
        """Keep a receipt that did not come with its answer; see ``Bills.take_late``."""
        return self._bills.take_late(signed)

    def answered(self, *, empty: bool) -> None:
        """Note that an answer ended well and was billed, with text or without any."""
        self.undelivered.answered(empty=empty)

    def all_receipts_known(self) -> None:
        """Give up the requests that the node had time to bill; call it if no receipt is missing."""
        self.undelivered.forget_old()
