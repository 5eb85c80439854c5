"""The buyer and the node of one channel, as the product models them, and what must hold of both.

Drives ``viz.domain.buyer_channel`` and ``viz.domain.node_channel``; knows neither the chain nor the
books: the chain's state is handed in as confirmed.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from viz.domain import buyer_channel as buyer_side
from viz.domain import node_channel as node_side
from viz.domain import reservations
from viz.domain.buyer_channel import BuyerChannel, VoucherDraft
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import Domain, sign, sign_compact
from viz.domain.node_channel import NodeChannel, PresentedVoucher
from viz.domain.ports.chain import ChannelState
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import (
    BooksMismatch,
    ChannelClosing,
    ChannelUnknown,
    DepositExceeded,
    LineBelowBest,
    PaymentRequired,
    StaleVoucher,
    UnknownAdapter,
)


@dataclass
class Sides:
    """``astray`` once the node claimed what its ledger did not freeze: its books are void then."""

    domain: Domain
    signer_key: bytes
    node_key: bytes
    node: NodeChannel
    buyer: BuyerChannel
    presented: list[PresentedVoucher] = field(default_factory=list)
    astray: bool = False
    highest_signed: Units = 0

    def confirm_to_buyer(self, seen: ChannelState) -> None:
        """The chain never settles what the buyer does not know to have signed: this cannot fail."""
        self.buyer = buyer_side.observe(self.buyer, seen)

    def confirm_to_node(self, seen: ChannelState) -> None:
        try:
            self.node = node_side.observe(self.node, seen)
        except BooksMismatch:
            assert self.astray, "an honest node's books left the chain"
            self.node = node_side.observe(NodeChannel(self.node.signer, self.node.node), seen)

    def sign(self, adapter_id: int, units: Units, *, oldest_base: bool) -> VoucherDraft | None:
        """Return what was signed, on the node's base or on the oldest one still claimable."""
        raised = self.buyer.signed_units(AdapterId(adapter_id)) + units
        try:
            after = buyer_side.raise_signed(self.buyer, AdapterId(adapter_id), raised)
        except ChannelUnknown:
            return None
        except DepositExceeded:
            assert self.buyer.total_units + units > self.buyer.limit_units
            return None
        base = min(after.points) if oldest_base else self.node.base_units
        try:
            self.buyer, draft = buyer_side.draft_voucher(after, base)
        except StaleVoucher:
            assert base not in self.buyer.points
            return None
        assert draft is not None
        assert self.buyer.total_units <= self.buyer.limit_units
        voucher = draft.voucher
        signature = sign_compact(self.signer_key, self.domain.digest(voucher))
        row = SignedVoucher(voucher.settled_units, voucher.receipts_head, draft.lines, signature)
        assert row.end_units == self.buyer.total_units
        self.highest_signed = max(self.highest_signed, row.end_units)
        where = (self.domain.chain_id, self.domain.contract, self.node.signer, self.node.node)
        self.presented.append(PresentedVoucher(*where, row))
        return draft

    def deliver(self, pick: int, known_adapters: Container[AdapterId], now_s: int) -> None:
        """A voucher arrives: the newest on its base is taken, or not for a stated reason."""
        if not self.presented:
            return
        presented, before = self.presented[pick % len(self.presented)], self.node
        newest = presented is self.presented[-1] and presented.row.base_units == before.base_units
        try:
            self.node = node_side.accept_voucher(
                before, self.domain, presented, known_adapters=known_adapters, now_s=now_s
            )
        except ChannelClosing:
            assert before.close_at_s or now_s <= before.no_sale_until_s
        except ChannelUnknown:
            assert before.payer != self.buyer.payer
        except DepositExceeded:
            assert presented.row.end_units > before.limit_units
        except (StaleVoucher, LineBelowBest, PaymentRequired, UnknownAdapter):
            assert not newest or self.astray
        else:
            assert not before.close_at_s
            assert self.node.end_units <= self.node.limit_units

    def use(self, adapter_id: int, units: Units, now_s: int) -> None:
        """The node delivers within what was promised, and the buyer verifies the receipt."""
        adapter = AdapterId(adapter_id)
        units = min(units, self.node.available_units(adapter))
        if units <= 0 or self.astray:
            return
        held = reservations.reserve(self.node, adapter, units)
        self.node = reservations.end_reservation(
            held, adapter, reserved_units=units, spent_units=units
        )
        lines = (UsageLine(adapter, units),)
        receipt = Receipt(
            channel_id(self.node.signer, self.node.node),
            self.node.seq + 1,
            usage_hash(lines),
            ZERO_HASH,
            ZERO_HASH,
            ZERO_HASH,
            1,
            1,
            units,
            self.node.total_spent_units,
            now_s,
        )
        digest = self.domain.digest(receipt)
        self.node = reservations.append_receipt(self.node, digest)
        signed = SignedReceipt(receipt, lines, ZERO_HASH, ZERO_HASH, sign(self.node_key, digest))
        self.buyer = buyer_side.accept_receipt(self.buyer, self.domain, signed)
        assert self.buyer.head == self.node.head

    def freeze(self) -> None:
        self.node, row = node_side.freeze_for_claim(self.node)
        assert row is None or row.end_units == self.node.base_units

    def run(self) -> list[SignedVoucher]:
        """All that the node holds and has not seen confirmed, in order."""
        return [*self.node.frozen, *([self.node.best] if self.node.best else [])]
