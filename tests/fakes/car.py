"""Read a CAR as a client does that trusts nobody: every block is hashed."""

from __future__ import annotations

from viz.storage.cid import to_text, verify
from viz.storage.unixfs import IpfsBlock

_CID_BYTES = 36


def car_of(data: bytes) -> tuple[bytes, list[IpfsBlock]]:
    """Return the header's bytes and the blocks in their order; fail on anything that is no CAR."""
    size, at = _number(data, 0)
    header, at = data[at : at + size], at + size
    assert header.endswith(b"version\x01")
    blocks = []
    while at < len(data):
        size, at = _number(data, at)
        assert at + size <= len(data), "the CAR breaks off"
        cid = to_text(data[at : at + _CID_BYTES])
        block = data[at + _CID_BYTES : at + size]
        verify(cid, block)
        blocks.append(IpfsBlock(cid, block))
        at += size
    return header, blocks


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
