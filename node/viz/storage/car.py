"""Write CAR files, version 1: a header that names the root, then blocks, each with its CID.

Does no I/O. Source: the CARv1 and DAG-CBOR specifications of IPLD.
"""

from __future__ import annotations

from typing import Final

from viz.storage.unixfs import varint

# {"roots": [link], "version": 1} in DAG-CBOR, up to the bytes of the link and after them.
_BEFORE: Final = b"\xa2\x65roots\x81\xd8\x2a"
_AFTER: Final = b"\x67version\x01"
_CBOR_BYTES: Final = 0x40
_SHORT: Final = 24


def car_header(root: bytes) -> bytes:
    """Return the header of a CAR; ``root`` is a binary CID of at most 254 bytes."""
    link = b"\x00" + root
    size = len(link)
    head = bytes((_CBOR_BYTES | size,)) if size < _SHORT else bytes((_CBOR_BYTES | _SHORT, size))
    header = _BEFORE + head + link + _AFTER
    return varint(len(header)) + header


def section_head(cid: bytes, block_bytes: int) -> bytes:
    """Return the bytes before a block in a CAR: the section's length and the binary CID."""
    return varint(len(cid) + block_bytes) + cid
