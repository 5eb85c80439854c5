"""Rows of a ledger at the edges of what it must keep, for every test of a store."""

from __future__ import annotations

from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord, ReceiptRecord
from viz.domain.units import UINT96_MAX, AdapterId, Address, Hash32

IDENTITY = {"node": "0xN", "chain_id": "31337"}
ALICE = Address("0x" + "aA" * 20)
BOB = Address("0x" + "bB" * 20)
ADAPTER = AdapterId(2**32 - 1)


def digest(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


def channel() -> ChannelRecord:
    return ChannelRecord(
        ALICE,
        base_units=UINT96_MAX - 7,
        lines={
            AdapterId(0): ChannelLineRecord(1, 2, 2),
            ADAPTER: ChannelLineRecord(0, UINT96_MAX, UINT96_MAX - 1),
        },
        signature=b"\x01" * 64,
        voucher_head=digest(1),
        voucher_seq=3,
        head=digest(2),
        seq=4,
        total_units=2**64,
        closed_until=9,
        voucher_at=1_800_000_000,
    )


def receipt(seq: int) -> ReceiptRecord:
    return ReceiptRecord(ALICE, seq, digest(100 + seq), digest(200 + seq), b"{}", 5)
