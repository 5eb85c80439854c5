"""The money of one channel: what may be signed, and the vouchers that say so.

Owns the ceiling under which a node is paid, the signing of vouchers and their delivery. Does not
know texts: a request tells how much it exposes (``viz.buyer.exposure``), and what its receipt said.

Invariants: no voucher is signed before its end point is on disk; an adapter's signed amount never
exceeds what receipts show as spent there, plus what the requests under way expose, plus what ended
without a receipt yet (one request's cap at most); an adapter that nobody asked for gets nothing
(its ceiling is 0). A receipt counts only where one request accounts for it.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Final

from viz.buyer.exposure import Exposure, Exposures
from viz.buyer.ledger import ChannelLedger
from viz.buyer.node_api import NodeApi
from viz.buyer.verify import Limits
from viz.domain.channel import Offer
from viz.domain.claim import SignedVoucher
from viz.domain.curve import Curve, draft_voucher, owe, take_receipt, verified_link
from viz.domain.eip712 import settlement_domain, sign_compact
from viz.domain.exchange import ChannelView
from viz.domain.ports.chain import ChannelState, Deployment
from viz.domain.receipt import SignedReceipt
from viz.domain.units import AdapterId, Units
from viz.domain.wire import Reader
from viz.errors import (
    BooksMismatch,
    LineBelowBest,
    NodeRefused,
    PriceAboveCap,
    StaleVoucher,
)

ATTEMPTS: Final = 6


class Purse:
    """Signs for one channel; one instance a process and channel."""

    def __init__(
        self, api: NodeApi, ledger: ChannelLedger, deployment: Deployment, limits: Limits
    ) -> None:
        self._exposures = Exposures(ledger.curve, limits.request_units, limits.step_units)
        self._api = api
        self._ledger = ledger
        self._deployment = deployment
        self.domain = settlement_domain(deployment.chain_id, deployment.settlement)
        self._base_units: Units = ledger.curve.settled_units
        self._delivered: dict[AdapterId, Units] = {}
        self._paying = asyncio.Lock()

    @property
    def curve(self) -> Curve:
        """What was signed and received so far."""
        return self._ledger.curve

    # what may be signed

    def expose(self, adapter_id: AdapterId, request: bytes) -> AbstractContextManager[Exposure]:
        """Allow a request to cost what its exposure says (raise it as the answer arrives)."""
        return self._exposures.open(adapter_id, request)

    def leave_unreceipted(self, exposure: Exposure) -> None:
        """Remember that a request ended without its receipt: its cost is not known yet."""
        self._exposures.leave(exposure)

    @property
    def lacks_receipts(self) -> bool:
        """Whether a request ended without its receipt, or receipts arrived with a gap."""
        return self._exposures.lacks_receipts or bool(self.curve.unlinked)

    def ceiling_units(self, adapter_id: AdapterId) -> Units:
        """Return the most that may be signed for the adapter now, over the channel's life."""
        return self.curve.spent_units(adapter_id) + self._exposures.units(adapter_id)

    def allows(self, adapter_id: AdapterId, required_units: Units) -> bool:
        """Say whether so much may be signed for the adapter, or was already."""
        ceiling = self.ceiling_units(adapter_id)
        return required_units <= max(ceiling, self.curve.signed_units(adapter_id))

    # paying

    async def cover(
        self,
        adapter_id: AdapterId,
        *,
        required_units: Units,
        wanted_units: Units,
        base_units: Units | None = None,
    ) -> None:
        """Have the node accept ``required_units`` for the adapter, or better ``wanted_units``.

        Both are cumulative. Raises PriceAboveCap when the requirement is above the ceiling,
        DepositExceeded, ChannelUnknown, and what the node refuses with.
        """
        async with self._paying:
            # Judged when it is signed: what was exposed before the wait may be billed by now.
            ceiling = self.ceiling_units(adapter_id)
            if not self.allows(adapter_id, required_units):
                raise PriceAboveCap(
                    f"the node requires {required_units} units for adapter {adapter_id}; what was "
                    f"asked and has arrived justifies {ceiling}"
                )
            if base_units is not None:
                self._base_units = max(self._base_units, base_units)
            target = max(required_units, self._within(adapter_id, min(wanted_units, ceiling)))
            for _ in range(ATTEMPTS):
                if self._delivered.get(adapter_id, 0) >= target:
                    return
                try:
                    await self._deliver(adapter_id, target)
                except (StaleVoucher, LineBelowBest) as error:
                    self._follow(error)
            raise NodeRefused("the node names a new base with every voucher: it is out of step")

    def _within(self, adapter_id: AdapterId, wanted_units: Units) -> Units:
        """Return ``wanted_units`` cut to what the deposit still covers."""
        credit = sum(
            max(0, units - self.curve.signed_units(other))
            for other, units in self.curve.spent.items()
            if other != adapter_id
        )
        spare = max(0, self.curve.limit_units - self.curve.total_units - credit)
        return min(wanted_units, self.curve.signed_units(adapter_id) + spare)

    async def _deliver(self, adapter_id: AdapterId, target_units: Units) -> None:
        owed = owe(self.curve, adapter_id, target_units)
        # The node takes no voucher that leaves out what it delivered on credit, of any adapter.
        for other, units in self.curve.spent.items():
            owed = owe(owed, other, units)
        after, draft = draft_voucher(owed, self._base_units)
        if draft is None:
            self._delivered = dict(self.curve.vector)
            return
        # Not in a thread: a receipt that is committed meanwhile would be lost from the curve.
        self._ledger.commit_signing(after)
        signature = sign_compact(self._ledger.session_key, self.domain.digest(draft.voucher))
        voucher = draft.voucher
        row = SignedVoucher(voucher.settled_units, voucher.receipts_head, draft.lines, signature)
        offer = Offer(
            self._deployment.chain_id,
            self._deployment.settlement,
            after.signer,
            after.node,
            row,
        )
        view = await self._api.voucher(offer)
        self._delivered = dict(after.vector)
        self.note(view)

    def _follow(self, refusal: StaleVoucher | LineBelowBest) -> None:
        """Move on to the base that the node names in its refusal."""
        reader = Reader(refusal.extensions, "the node's refusal")
        base = reader.units("base")
        at_base = self.curve.points.get(base)
        if at_base is None:
            raise StaleVoucher(f"the node names base {base}, which this key never signed")
        for adapter_id, units in reader.lines("best"):
            if self.curve.signed_units(adapter_id) - at_base.get(adapter_id, 0) < units:
                raise BooksMismatch(
                    "the node holds a voucher of this key that is not in the ledger: close the "
                    "channel and open one with a new session key"
                )
        self._base_units = base

    # what the node says

    def note(self, view: ChannelView) -> None:
        """Take over what a channel's view says of base, deposit and settled total.

        Raises BooksMismatch when the chain settled what this ledger never signed.
        """
        if view.settled_units < self.curve.settled_units:
            return  # an answer that was overtaken by a newer one
        self._ledger.commit_observation(
            ChannelState(
                signer=view.signer,
                node=view.node,
                payer=view.payer,
                deposit_units=view.deposit_units,
                settled_units=view.settled_units,
                close_at=view.close_at_s,
            )
        )
        self._base_units = max(self._base_units, view.base_units)

    def take(self, signed: SignedReceipt, exposure: Exposure) -> None:
        """Keep the receipt that a request's answer brought, and that was compared with it.

        Raises InvalidSignature, and NodeNotTrusted for a second receipt of one request.
        """
        link = verified_link(self.curve, self.domain, signed)
        after = take_receipt(self.curve, link)
        self._exposures.bill(exposure, link.seq)
        if after is not self.curve:
            self._ledger.commit_receipt(after, link)

    def take_late(self, signed: SignedReceipt) -> None:
        """Keep a receipt that its answer did not bring, where something of ours accounts for it.

        That is a request that ended without one, a request under way, or what a process before
        this one left. Raises InvalidSignature, and NodeNotTrusted for a receipt that nobody's
        request accounts for.
        """
        link = verified_link(self.curve, self.domain, signed)
        after = take_receipt(self.curve, link)
        if after is self.curve:
            return
        unused = sum(
            self.curve.signed_units(key) - self.curve.spent_units(key) for key, _ in link.lines
        )
        self._exposures.account_for(signed, unused)
        self._ledger.commit_receipt(after, link)

    def all_receipts_known(self) -> None:
        """Forget requests that the node had time to bill and did not: the chain is whole."""
        self._exposures.forget_old()
