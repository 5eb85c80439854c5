"""The bytes of a claim, with everything in them that can be wrong.

Owns raw rows: unlike ``viz.domain.claim_rows`` they may be cut short, empty, unsorted or unsigned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from viz.domain.claim_rows import ROW_HEAD_BYTES, SignedVoucher
from viz.domain.eip712 import Domain, recover, sign_compact
from viz.domain.typed_data import Voucher
from viz.domain.units import ZERO_HASH, Address, Hash32, Units
from viz.domain.usage import LINE_BYTES, Lines, pack_lines, sum_of, unpack_lines, usage_hash
from viz.errors import InvalidSignature


class Row(NamedTuple):
    signature: bytes
    base_units: Units
    head: Hash32
    lines: Lines

    @property
    def sum_units(self) -> Units:
        return sum_of(self.lines)

    def voucher(self, node: Address) -> Voucher:
        return Voucher(node, self.base_units, usage_hash(self.lines), self.head)

    def signer(self, domain: Domain, node: Address) -> Address | None:
        try:
            return recover(domain.digest(self.voucher(node)), self.signature)
        except InvalidSignature:
            return None

    def packed(self) -> bytes:
        base = self.base_units.to_bytes(12, "big")
        return self.signature + base + self.head + bytes([len(self.lines)]) + pack_lines(self.lines)


def row_of(voucher: SignedVoucher) -> Row:
    return Row(voucher.signature, voucher.base_units, voucher.receipts_head, voucher.lines)


def signed_row(domain: Domain, key: bytes, node: Address, base_units: Units, lines: Lines) -> Row:
    unsigned = Row(b"", base_units, ZERO_HASH, lines)
    signature = sign_compact(key, domain.digest(unsigned.voucher(node)))
    return Row(signature, base_units, ZERO_HASH, lines)


def with_high_s(row: Row) -> Row:
    """A signature whose s is above half the order, as far as 64 bytes can spell one."""
    return row._replace(signature=row.signature[:32] + b"\x7f" + b"\xff" * 31)


def pack(rows: Iterable[Row]) -> bytes:
    return b"".join(row.packed() for row in rows)


def parse(payload: bytes) -> list[Row | None]:
    """Return the rows; a last None stands for one that is cut short."""
    rows: list[Row | None] = []
    while payload:
        count = payload[ROW_HEAD_BYTES - 1] if len(payload) >= ROW_HEAD_BYTES else 0
        end = ROW_HEAD_BYTES + count * LINE_BYTES
        if len(payload) < end:
            return [*rows, None]
        head = payload[:ROW_HEAD_BYTES]
        base_units, receipts_head = int.from_bytes(head[64:76], "big"), Hash32(head[76:108])
        rows.append(
            Row(head[:64], base_units, receipts_head, unpack_lines(payload[len(head) : end]))
        )
        payload = payload[end:]
    return rows
