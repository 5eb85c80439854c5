"""Define usage lines: the amount that one voucher promises for each adapter.

Owns the line, its packing (uint32 adapterId | uint96 amount) and its hash. Invariant: a checked
tuple of lines strictly ascends by adapter id, has no zero amount, and its sum fits 96 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from viz.domain.eip712 import keccak
from viz.domain.units import UINT32_MAX, UINT96_MAX, AdapterId, Hash32, Units
from viz.errors import InvalidRequest

LINE_BYTES: Final = 16
MAX_LINES: Final = 255


class UsageLine(NamedTuple):
    """(adapter, amount): the amount for one adapter."""

    adapter_id: AdapterId
    amount_units: Units


Lines = tuple[UsageLine, ...]


def lines_of(amounts: Mapping[AdapterId, Units]) -> Lines:
    """Return the non-zero amounts as ascending lines."""
    return tuple(UsageLine(key, amounts[key]) for key in sorted(amounts) if amounts[key])


def check_lines(lines: Iterable[UsageLine]) -> Units:
    """Return the sum of the lines; raise InvalidRequest if the contract would refuse them."""
    previous, total, count = -1, 0, 0
    for adapter_id, amount_units in lines:
        if not previous < adapter_id <= UINT32_MAX:
            raise InvalidRequest("usage lines must strictly ascend by adapter id")
        if not 0 < amount_units <= UINT96_MAX:
            raise InvalidRequest("every usage line must have an amount above 0 that fits 96 bits")
        previous, total, count = adapter_id, total + amount_units, count + 1
    if not 0 < count <= MAX_LINES:
        raise InvalidRequest(f"a voucher has 1 to {MAX_LINES} usage lines")
    if total > UINT96_MAX:
        raise InvalidRequest("the sum of the usage lines does not fit 96 bits")
    return total


def sum_of(lines: Iterable[UsageLine]) -> Units:
    """Return the sum of the lines' amounts."""
    return sum(line[1] for line in lines)


def pack_lines(lines: Iterable[UsageLine]) -> bytes:
    """Return the packed lines, 16 bytes each, big-endian."""
    return b"".join(a.to_bytes(4, "big") + u.to_bytes(12, "big") for a, u in lines)


def unpack_lines(packed: bytes) -> Lines:
    """Return the lines that ``pack_lines`` packed; raise InvalidRequest for a wrong length."""
    if len(packed) % LINE_BYTES:
        raise InvalidRequest(f"packed usage lines take {LINE_BYTES} bytes each")
    return tuple(
        UsageLine(
            AdapterId(int.from_bytes(packed[at : at + 4], "big")),
            int.from_bytes(packed[at + 4 : at + LINE_BYTES], "big"),
        )
        for at in range(0, len(packed), LINE_BYTES)
    )


def usage_hash(lines: Iterable[UsageLine]) -> Hash32:
    """Return keccak256 of the packed lines."""
    return keccak(pack_lines(lines))


def spelled_lines(lines: Iterable[UsageLine]) -> list[list[int | str]]:
    """Return the lines as JSON values, with amounts as text."""
    return [[int(adapter_id), str(units)] for adapter_id, units in lines]
