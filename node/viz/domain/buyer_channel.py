"""A channel as its buyer sees it: signed and billed amounts, as pure (state, change) -> state.

Owns one amount per adapter that never falls, the vector at every end point that was signed above
the confirmed total (the node may claim any of them), and the chain of verified receipts. The
node's side is ``viz.domain.node_channel``. Knows no key, no file and no clock. The caller makes the
returned state durable before a signature leaves.

What is known of the deposit and the settled total is the latest reading of the chain (``observe``)
or, for a buyer that reads none, the node's word (``hear``). Only a reading of the chain proves that
a total was settled: end points above the proven one are kept, so that the next reading can correct
whatever the node said.

Invariants, each held by ``tests/properties/domain/test_channel.py``:
 B1  the vector never falls, and no end point exceeds the known settled total + deposit;
 B2  a voucher on base B is the vector now minus the vector at B, so what was signed depends only on
     the end point, never on the route;
 B3  the head that is signed is that of the longest verified gap-free run of receipts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from viz.domain.eip712 import Domain
from viz.domain.node_channel import Vector
from viz.domain.ports.chain import ChannelState
from viz.domain.receipt import SignedReceipt, next_head
from viz.domain.trust import LEAVE_AND_RENEW
from viz.domain.typed_data import Voucher, channel_id
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, AdapterId, Address, Hash32, Units
from viz.domain.usage import Lines, check_lines, lines_of, sum_of, usage_hash
from viz.errors import (
    BooksMismatch,
    ChannelUnknown,
    DepositExceeded,
    InvalidSignature,
    StaleVoucher,
)

# End points that only the node says are settled: so many are kept, the newest, and the proven one.
SAID_POINTS: Final = 10_000


class ReceiptLink(NamedTuple):
    """What the chain of receipts needs of a verified receipt."""

    seq: int
    digest: Hash32
    total_units: Units
    lines: Lines


@dataclass(frozen=True, slots=True)
class BuyerChannel:
    """What a buyer has signed on one channel, and what it got receipts for."""

    signer: Address
    node: Address
    # the chain at the confirmation depth, or what the node says of it
    payer: Address = ZERO_ADDRESS
    deposit_units: Units = 0
    settled_units: Units = 0
    close_at_s: int = 0
    # the settled total of the latest reading of the chain
    proven_units: Units = 0
    # what was signed
    vector: Vector = field(default_factory=dict)
    points: Mapping[Units, Vector] = field(default_factory=lambda: {0: {}})
    # what was received
    billed: Vector = field(default_factory=dict)
    seq: int = 0
    head: Hash32 = ZERO_HASH
    linked_units: Units = 0
    unlinked: Mapping[int, ReceiptLink] = field(default_factory=dict)

    @property
    def total_units(self) -> Units:
        """The end point of the latest voucher."""
        return sum(self.vector.values())

    @property
    def limit_units(self) -> Units:
        """The highest end point that the known deposit covers."""
        return self.settled_units + self.deposit_units

    def signed_units(self, adapter_id: AdapterId) -> Units:
        """All that was ever signed for the adapter here."""
        return self.vector.get(adapter_id, 0)

    def billed_units(self, adapter_id: AdapterId) -> Units:
        """All that receipts bill for the adapter."""
        return self.billed.get(adapter_id, 0)

    def unused_units(self, adapter_id: AdapterId) -> Units:
        """What was signed for the adapter and is not billed yet; 0 if more was billed."""
        return max(0, self.signed_units(adapter_id) - self.billed_units(adapter_id))


@dataclass(frozen=True, slots=True)
class VoucherDraft:
    """A voucher to be signed, with its lines."""

    voucher: Voucher
    lines: Lines


def observe(channel: BuyerChannel, seen: ChannelState) -> BuyerChannel:
    """Return the channel after a confirmed reading of the chain; forget end points below its total.

    It replaces whatever the node said. Raises BooksMismatch when the chain settled a total that
    this ledger never signed: it was lost, or another copy of it used the key.
    """
    if seen.settled_units < channel.proven_units or seen.settled_units not in channel.points:
        raise BooksMismatch(
            f"the chain settled {seen.settled_units} units, an end point that is not in this "
            "ledger. If the folder was copied or restored from a backup, go on with the latest copy"
            f" alone. If there is none, {LEAVE_AND_RENEW}"
        )
    points = {end: at for end, at in channel.points.items() if end >= seen.settled_units}
    return replace(_known(channel, seen), proven_units=seen.settled_units, points=points)


def hear(channel: BuyerChannel, said: ChannelState) -> BuyerChannel:
    """Return the channel after what its node says of it, which proves nothing.

    Word of a smaller total than the known one was overtaken, and changes nothing. Raises
    BooksMismatch for a total that this ledger never signed.
    """
    if said.settled_units < channel.settled_units:
        return channel
    if said.settled_units not in channel.points:
        raise BooksMismatch(
            f"the node says that the chain settled {said.settled_units} units, an end point that "
            "is not in this ledger: read the channel with --rpc, which says whether that is true. "
            "If the folder was copied or restored from a backup, go on with the latest copy alone. "
            f"If there is none, {LEAVE_AND_RENEW}"
        )
    points = channel.points
    if len(points) > 2 * SAID_POINTS:
        doubtful = sorted(end for end in points if end < said.settled_units)
        dropped = set(doubtful[:-SAID_POINTS]) - {channel.proven_units}
        points = {end: at for end, at in points.items() if end not in dropped}
    return replace(_known(channel, said), points=points)


def _known(channel: BuyerChannel, state: ChannelState) -> BuyerChannel:
    return replace(
        channel,
        payer=state.payer,
        deposit_units=state.deposit_units,
        settled_units=state.settled_units,
        close_at_s=state.close_at,
    )


def raise_signed(channel: BuyerChannel, adapter_id: AdapterId, up_to_units: Units) -> BuyerChannel:
    """Return the channel with the adapter's amount raised to ``up_to_units``; it never falls.

    Raises ChannelUnknown, DepositExceeded.
    """
    if up_to_units <= channel.signed_units(adapter_id):
        return channel
    if channel.payer == ZERO_ADDRESS:
        raise ChannelUnknown("the channel is not open, or its opening is not confirmed yet")
    after = replace(channel, vector={**channel.vector, adapter_id: up_to_units})
    if after.total_units > channel.limit_units:
        raise DepositExceeded(
            f"{after.total_units} units would be signed for, and the deposit covers "
            f"{channel.limit_units}: top up the channel",
            limit=str(channel.limit_units),
        )
    return after


def draft_voucher(
    channel: BuyerChannel, base_units: Units
) -> tuple[BuyerChannel, VoucherDraft | None]:
    """Return the channel with its end point remembered, and the voucher to sign on the node's base.

    None where nothing is signed beyond that base. Raises StaleVoucher when the base is no end point
    that this key signed and no confirmed total: signing there could be charged twice.
    """
    at_base = channel.points.get(base_units)
    if at_base is None:
        raise StaleVoucher(f"the node names base {base_units}, which this key never signed")
    lines = lines_of({key: units - at_base.get(key, 0) for key, units in channel.vector.items()})
    if not lines:
        return channel, None
    check_lines(lines)
    voucher = Voucher(channel.node, base_units, usage_hash(lines), channel.head)
    points = {**channel.points, channel.total_units: channel.vector}
    return replace(channel, points=points), VoucherDraft(voucher, lines)


def draft_final(
    channel: BuyerChannel, base_units: Units
) -> tuple[BuyerChannel, VoucherDraft | None]:
    """Return the channel with the end point of its final voucher remembered, and that voucher.

    The voucher is for what the receipts bill since the base, and nothing that was signed ahead. It
    has no lines if that is nothing; it is None if another vector was signed for the same end point.
    What is signed stays as it is: until the node claims this voucher it may claim the ones before,
    and a channel that is opened again first uses what is left of them. Only what was delivered on
    credit is added. Raises StaleVoucher as ``draft_voucher``, ChannelUnknown, DepositExceeded.
    """
    for adapter_id, units in channel.billed.items():
        # So no end point of a final voucher is above the vector's, where later ones could meet it.
        channel = raise_signed(channel, adapter_id, units)
    at_base = channel.points.get(base_units)
    if at_base is None:
        raise StaleVoucher(f"the node names base {base_units}, which this key never signed")
    # A claim under way may have taken more for an adapter than was billed: then it has no line.
    lines = lines_of(
        {key: max(0, units - at_base.get(key, 0)) for key, units in channel.billed.items()}
    )
    voucher = Voucher(channel.node, base_units, usage_hash(lines), channel.head)
    if not lines:
        return channel, VoucherDraft(voucher, lines)
    check_lines(lines)
    vector = dict(at_base)
    for adapter_id, units in lines:
        vector[adapter_id] = vector.get(adapter_id, 0) + units
    end_units = sum(vector.values())
    if channel.points.get(end_units, vector) != vector:
        return channel, None
    return replace(channel, points={**channel.points, end_units: vector}), VoucherDraft(
        voucher, lines
    )


def accept_receipt(channel: BuyerChannel, domain: Domain, signed: SignedReceipt) -> BuyerChannel:
    """Return the channel with a verified receipt; one that is known already changes nothing.

    Receipts may arrive in any order; the head moves when the run is gap-free. Raises
    InvalidSignature when the receipt is not the node's, not this channel's, or contradicts the
    chain of receipts before it.
    """
    return take_receipt(channel, verified_link(channel, domain, signed))


def verified_link(channel: BuyerChannel, domain: Domain, signed: SignedReceipt) -> ReceiptLink:
    """Return what the chain of receipts needs of a receipt; raise InvalidSignature."""
    digest, receipt = signed.verify(domain, channel.node), signed.receipt
    if receipt.channel_id != channel_id(channel.signer, channel.node):
        raise InvalidSignature("the receipt is for another channel")
    return ReceiptLink(receipt.seq, digest, receipt.total_units, signed.lines)


def take_receipt(channel: BuyerChannel, link: ReceiptLink) -> BuyerChannel:
    """Return the channel with a receipt that was verified before, as a ledger replays it."""
    if link.seq <= channel.seq or link.seq in channel.unlinked:
        return channel
    billed = dict(channel.billed)
    for adapter_id, units in link.lines:
        billed[adapter_id] = billed.get(adapter_id, 0) + units
    return _link(replace(channel, billed=billed, unlinked={**channel.unlinked, link.seq: link}))


def _link(channel: BuyerChannel) -> BuyerChannel:
    seq, head, total, waiting = (
        channel.seq,
        channel.head,
        channel.linked_units,
        dict(channel.unlinked),
    )
    while (following := waiting.pop(seq + 1, None)) is not None:
        total += sum_of(following.lines)
        if following.total_units != total:
            raise InvalidSignature(
                f"receipt {seq + 1} states a total of {following.total_units} units; "
                f"the receipts up to it sum to {total}"
            )
        seq, head = seq + 1, next_head(head, following.digest)
    return replace(channel, seq=seq, head=head, linked_units=total, unlinked=waiting)
