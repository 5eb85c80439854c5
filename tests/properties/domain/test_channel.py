"""A buyer, its node and a contract, in any order of events: the numbered invariants hold.

C1 to C7 and B1 to B3 are those of ``viz.domain.node_channel`` and ``viz.domain.buyer_channel``. The
contract here is the few lines of Settlement that judge a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from viz.domain import buyer_channel as buyer_side
from viz.domain import node_channel as node_side
from viz.domain import reservations
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.claim_rows import SignedVoucher, pack_rows, unpack_rows
from viz.domain.closing import accept_final
from viz.domain.eip712 import public_address, recover, settlement_domain, sign, sign_compact
from viz.domain.node_channel import NodeChannel, PresentedVoucher
from viz.domain.ports.chain import ChannelState
from viz.domain.receipt import SignedReceipt, next_head
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Address, Hash32, Units
from viz.domain.usage import UsageLine, sum_of, usage_hash
from viz.errors import (
    DepositExceeded,
    LineBelowBest,
    PaymentError,
    PaymentRequired,
    StaleVoucher,
)

SIGNER_KEY, NODE_KEY = b"\x01" * 32, b"\x02" * 32
SIGNER, NODE = public_address(SIGNER_KEY), public_address(NODE_KEY)
PAYER = Address("0x000000000000000000000000000000000000dEaD")
CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAIN = settlement_domain(31337, CONTRACT)
CREDIT = 7
ADAPTERS = tuple(AdapterId(key) for key in (0, 3, 9))

adapters = st.sampled_from(ADAPTERS)
amounts = st.integers(1, 60)


@dataclass
class Contract:
    """What Settlement keeps of one channel, and how it judges a row."""

    deposit: Units = 0
    settled: Units = 0

    def claim(self, row: SignedVoucher) -> bool:
        signer = recover(DOMAIN.digest(row.voucher(NODE)), row.signature)
        amount = sum_of(row.lines)
        if signer != SIGNER or row.base_units != self.settled or amount > self.deposit:
            return False
        self.deposit -= amount
        self.settled += amount
        return True

    def seen(self) -> ChannelState:
        return ChannelState(SIGNER, NODE, PAYER, self.deposit, self.settled, 0)


class Channel(RuleBasedStateMachine):
    """Random histories of one channel."""

    @initialize(deposit=st.integers(0, 2_000))
    def open(self, deposit: Units) -> None:
        self.contract = Contract(deposit=deposit)
        self.node = node_side.observe(NodeChannel(SIGNER, NODE), self.contract.seen())
        self.buyer = buyer_side.observe(BuyerChannel(SIGNER, NODE), self.contract.seen())
        self.claimed: dict[AdapterId, Units] = {}
        self.accepted = dict.fromkeys(ADAPTERS, 0)
        self.presented: list[PresentedVoucher] = []
        self.receipts: list[SignedReceipt] = []
        self.held: list[tuple[AdapterId, Units]] = []
        self.taken: set[int] = set()
        self.highest_signed = 0
        # Whether a final voucher was taken after the newest of the others.
        self.ended = False
        self.best: tuple[Units, dict[AdapterId, Units]] = (0, {})

    # the buyer

    @rule(adapter_id=adapters, amount=amounts)
    def sign(self, adapter_id: AdapterId, amount: Units) -> None:
        """What an honest buyer signs on the announced base fits every later check."""
        try:
            raised = self.buyer.signed_units(adapter_id) + amount
            after = buyer_side.raise_signed(self.buyer, adapter_id, raised)
        except DepositExceeded:
            assert self.buyer.total_units + amount > self.buyer.limit_units
            return
        self.buyer, draft = buyer_side.draft_voucher(after, self.node.base_units)
        assert draft is not None
        signature = sign_compact(SIGNER_KEY, DOMAIN.digest(draft.voucher))
        voucher = draft.voucher
        row = SignedVoucher(voucher.settled_units, voucher.receipts_head, draft.lines, signature)
        assert row.end_units == self.buyer.total_units  # B2
        self.highest_signed = max(self.highest_signed, row.end_units)
        self.presented.append(PresentedVoucher(31337, CONTRACT, SIGNER, NODE, row))
        self.ended = False

    @precondition(lambda self: self.presented)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Vouchers arrive late, twice or never; the newest on the base is always taken."""
        position = data.draw(st.integers(0, len(self.presented) - 1))
        presented = self.presented[position]
        newest = position == len(self.presented) - 1 and not self.ended
        try:
            self.node = node_side.accept_voucher(
                self.node, DOMAIN, presented, known_adapters=ADAPTERS, now_s=0
            )
        except StaleVoucher:
            heads = self.node.heads
            stale = presented.row.base_units != self.node.base_units
            assert stale or presented.row.receipts_head not in heads
            assert stale or not newest
        except (LineBelowBest, DepositExceeded):
            assert not newest or presented.row.end_units > self.node.limit_units
        except PaymentRequired:
            assert self.node.credit_used_units() > 0

    @rule(adapter_id=adapters, amount=amounts)
    def pay(self, adapter_id: AdapterId, amount: Units) -> None:
        """The usual course: sign on the announced base and deliver at once (no livelock)."""
        before = len(self.presented)
        self.sign(adapter_id, amount)
        if len(self.presented) > before and not self.node.credit_used_units():
            newest = self.presented[-1]
            if newest.row.end_units <= self.node.limit_units:
                self.node = node_side.accept_voucher(
                    self.node, DOMAIN, newest, known_adapters=ADAPTERS, now_s=0
                )
                assert self.node.accepted_units(adapter_id) == self.buyer.vector[adapter_id]

    @precondition(lambda self: self.receipts)
    @rule(data=st.data())
    def verify_receipt(self, data: st.DataObject) -> None:
        """Receipts arrive in any order, and again."""
        signed = data.draw(st.sampled_from(self.receipts))
        self.buyer = buyer_side.accept_receipt(self.buyer, DOMAIN, signed)
        self.taken.add(signed.receipt.seq)

    # the node

    @rule(adapter_id=adapters, amount=amounts)
    def reserve(self, adapter_id: AdapterId, amount: Units) -> None:
        try:
            self.node = reservations.reserve(
                self.node, adapter_id, amount, credit_window_units=CREDIT
            )
        except PaymentRequired as error:
            needed = self.node.committed_units(adapter_id) + amount
            assert error.extensions["required"] == str(needed)
            return
        self.held.append((adapter_id, amount))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def serve(self, data: st.DataObject) -> None:
        """A request ends, having delivered all, some or nothing of what was reserved."""
        adapter_id, held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        spent = data.draw(st.integers(0, held))
        self.node = reservations.end_reservation(
            self.node, adapter_id, reserved_units=held, spent_units=spent
        )
        if not spent:
            return
        lines = (UsageLine(adapter_id, spent),)
        receipt = Receipt(
            channel_id(SIGNER, NODE),
            self.node.seq + 1,
            usage_hash(lines),
            ZERO_HASH,
            ZERO_HASH,
            ZERO_HASH,
            1,
            1,
            spent,
            self.node.total_spent_units,
            0,
        )
        digest = DOMAIN.digest(receipt)
        self.node = reservations.append_receipt(self.node, digest)
        signature = sign(NODE_KEY, digest)
        self.receipts.append(SignedReceipt(receipt, lines, ZERO_HASH, ZERO_HASH, signature))

    @rule()
    def freeze(self) -> None:
        self.node, row = node_side.freeze_for_claim(self.node)
        assert row is None or row.end_units == self.node.base_units

    @precondition(lambda self: self.node.frozen)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        """The run of frozen rows, or a part of it, is claimed in order; each row is good."""
        waiting = [r for r in self.node.frozen if r.base_units >= self.contract.settled]
        count = data.draw(st.integers(0, len(waiting)))
        for row in unpack_rows(pack_rows(waiting[:count])):
            assert self.contract.claim(row)  # C5
            for adapter_id, units in row.lines:
                self.claimed[adapter_id] = self.claimed.get(adapter_id, 0) + units

    @rule()
    def settle(self) -> None:
        """Freeze, claim everything, confirm to both: the books start from a later base."""
        self.freeze()
        for row in [r for r in self.node.frozen if r.base_units >= self.contract.settled]:
            assert self.contract.claim(row)
            for adapter_id, units in row.lines:
                self.claimed[adapter_id] = self.claimed.get(adapter_id, 0) + units
        self.confirm_to_node()
        self.confirm_to_buyer()
        assert not self.node.frozen

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Any voucher ever signed, claimed now, never takes more than was signed."""
        if not self.presented:
            return
        row = data.draw(st.sampled_from(self.presented)).row
        probe = Contract(self.contract.deposit, self.contract.settled)
        probe.claim(row)
        assert probe.settled <= self.highest_signed

    @precondition(lambda self: not self.held)
    @rule()
    def close(self) -> None:
        """The buyer closes at what is billed; it may be opened again, and old vouchers may come."""
        for signed in self.receipts:
            self.buyer = buyer_side.accept_receipt(self.buyer, DOMAIN, signed)
            self.taken.add(signed.receipt.seq)
        try:
            self.buyer, draft = buyer_side.draft_final(self.buyer, self.node.base_units)
        except DepositExceeded:
            assert self.node.credit_used_units() > 0
            return
        if draft is None:
            return
        signature = sign_compact(SIGNER_KEY, DOMAIN.digest(draft.voucher)) if draft.lines else b""
        voucher = draft.voucher
        row = SignedVoucher(voucher.settled_units, voucher.receipts_head, draft.lines, signature)
        try:
            self.node = accept_final(
                self.node, DOMAIN, PresentedVoucher(31337, CONTRACT, SIGNER, NODE, row)
            )
        except DepositExceeded:
            assert row.end_units > self.node.limit_units
            return
        self.ended = True
        for adapter_id in ADAPTERS:
            over = self.node.accepted_units(adapter_id) - self.node.spent.get(adapter_id, 0)
            claimed = self.node.base_vector.get(adapter_id, 0)
            assert over == max(0, claimed - self.node.spent.get(adapter_id, 0))  # all, no more
        self.accepted = {key: self.node.accepted_units(key) for key in ADAPTERS}
        self.best = (self.node.base_units, dict(self.node.best_lines))

    # the chain

    @rule(amount=st.integers(1, 100))
    def top_up(self, amount: Units) -> None:
        self.contract.deposit += amount

    @rule()
    def confirm_to_node(self) -> None:
        self.node = node_side.observe(self.node, self.contract.seen())

    @rule()
    def confirm_to_buyer(self) -> None:
        self.buyer = buyer_side.observe(self.buyer, self.contract.seen())

    # what holds at all times

    @invariant()
    def c1_accepted_never_falls(self) -> None:
        for adapter_id in ADAPTERS:
            now = self.node.accepted_units(adapter_id)
            assert now >= self.accepted[adapter_id]
            self.accepted[adapter_id] = now

    @invariant()
    def c2_deliveries_stay_within_promises_and_credit(self) -> None:
        assert self.node.credit_used_units() <= CREDIT

    @invariant()
    def c3_promises_are_covered(self) -> None:
        assert self.node.end_units <= self.node.limit_units
        assert self.buyer.total_units <= self.buyer.limit_units  # B1

    @invariant()
    def c4_one_run(self) -> None:
        base = self.node.settled_units
        for row in (*self.node.frozen, *((self.node.best,) if self.node.best else ())):
            assert row.base_units == base
            base = row.end_units
        assert base == self.node.end_units

    @invariant()
    def c6_attribution_is_the_buyers(self) -> None:
        vector = self.buyer.points.get(self.contract.settled)
        assert vector is not None
        assert {key: units for key, units in vector.items() if units} == self.claimed

    @invariant()
    def c7_the_best_never_loses(self) -> None:
        base, best = self.best
        now = dict(self.node.best_lines)
        if base == self.node.base_units:
            assert all(now.get(key, 0) >= units for key, units in best.items())
        self.best = (self.node.base_units, now)

    @invariant()
    def b3_the_head_is_that_of_a_whole_run(self) -> None:
        head = ZERO_HASH
        for signed in self.receipts[: self.buyer.seq]:
            head = next_head(head, DOMAIN.digest(signed.receipt))
        assert head == self.buyer.head
        verified = [s for s in self.receipts if s.receipt.seq in self.taken]
        total = sum(signed.receipt.amount_units for signed in verified)
        assert sum(self.buyer.billed.values()) == total


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=40, stateful_step_count=30)


def test_a_refused_voucher_changes_nothing() -> None:
    """Every refusal is an exception of the payment tree, and the state is the old one by value."""
    seen = ChannelState(SIGNER, NODE, PAYER, 10, 0, 0)
    channel = node_side.observe(NodeChannel(SIGNER, NODE), seen)
    row = SignedVoucher(0, Hash32(bytes(32)), (UsageLine(AdapterId(0), 11),), bytes(64))
    before = repr(channel)
    try:
        node_side.accept_voucher(
            channel,
            DOMAIN,
            PresentedVoucher(31337, CONTRACT, SIGNER, NODE, row),
            known_adapters=ADAPTERS,
            now_s=0,
        )
    except PaymentError:
        assert repr(channel) == before
