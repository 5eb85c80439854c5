"""Pack signed vouchers to claim rows, as Settlement.claim reads them.

Owns the byte layout r | yParityAndS | settled (12) | receiptsHead (32) | count (1) | lines (16
each), and the meaning of a row's status.

Invariant: ``unpack_rows(pack_rows(rows)) == rows``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from viz.domain.eip712 import COMPACT_SIGNATURE_BYTES
from viz.domain.typed_data import Voucher
from viz.domain.units import Address, Hash32, Units
from viz.domain.usage import (
    LINE_BYTES,
    MAX_LINES,
    Lines,
    pack_lines,
    sum_of,
    unpack_lines,
    usage_hash,
)
from viz.errors import InvalidRequest

ROW_HEAD_BYTES: Final = COMPACT_SIGNATURE_BYTES + 12 + 32 + 1


class RowStatus(IntEnum):
    """How Settlement judged a row (ISettlement.RowStatus); only GOOD changes anything."""

    GOOD = 0
    TRUNCATED = 1
    NO_LINES = 2
    BAD_SIGNATURE = 3
    NO_CHANNEL = 4
    WRONG_BASE = 5
    BAD_ORDER = 6
    UNKNOWN_ADAPTER = 7
    ZERO_AMOUNT = 8
    INSUFFICIENT_DEPOSIT = 9
    TOTAL_TOO_LARGE = 10


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """A voucher with its lines and its 64-byte signature: one claim row."""

    base_units: Units
    receipts_head: Hash32
    lines: Lines
    signature: bytes

    @property
    def end_units(self) -> Units:
        """The settled total after this row is claimed."""
        return self.base_units + sum_of(self.lines)

    def voucher(self, node: Address) -> Voucher:
        """Return the struct that was signed, made out to ``node``."""
        return Voucher(node, self.base_units, usage_hash(self.lines), self.receipts_head)


def pack_row(row: SignedVoucher) -> bytes:
    """Return one row's bytes; raise InvalidRequest if it cannot be packed."""
    if len(row.signature) != COMPACT_SIGNATURE_BYTES:
        raise InvalidRequest("a claim row needs the 64-byte EIP-2098 signature")
    if not 0 < len(row.lines) <= MAX_LINES:
        raise InvalidRequest(f"a claim row has 1 to {MAX_LINES} usage lines")
    return b"".join(
        (
            row.signature,
            row.base_units.to_bytes(12, "big"),
            row.receipts_head,
            len(row.lines).to_bytes(1, "big"),
            pack_lines(row.lines),
        )
    )


def pack_rows(rows: Iterable[SignedVoucher]) -> bytes:
    """Return the argument of ``Settlement.claim``; the rows of a channel must be in order."""
    return b"".join(pack_row(row) for row in rows)


def unpack_rows(packed: bytes) -> tuple[SignedVoucher, ...]:
    """Return the rows in a claim's bytes; raise InvalidRequest if the bytes are incomplete."""
    rows: list[SignedVoucher] = []
    at = 0
    while at < len(packed):
        head = packed[at : at + ROW_HEAD_BYTES]
        if len(head) < ROW_HEAD_BYTES:
            raise InvalidRequest("the claim's last row is cut short")
        end = at + ROW_HEAD_BYTES + head[-1] * LINE_BYTES
        if end > len(packed):
            raise InvalidRequest("the claim's last row is cut short")
        rows.append(
            SignedVoucher(
                base_units=int.from_bytes(head[64:76], "big"),
                receipts_head=Hash32(head[76:108]),
                lines=unpack_lines(packed[at + ROW_HEAD_BYTES : end]),
                signature=head[:64],
            )
        )
        at = end
    return tuple(rows)
