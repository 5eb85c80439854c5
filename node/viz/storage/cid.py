"""Make and parse content identifiers (CIDs), and check that a block has its CID.

Owns CIDv1 with sha2-256 in lower-case base32, for the codecs raw and dag-pb: the form that
``ipfs add --cid-version=1`` prints. Invariant: only one text form of each (codec, digest) is
accepted, so CIDs can be compared as text. Source: the CID and multicodec specifications of
multiformats.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Final

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, InvalidRequest

RAW: Final = 0x55
DAG_PB: Final = 0x70
# Version 1, then (after the codec) the multihash function sha2-256 and its length of 32 bytes.
_VERSION: Final = b"\x01"
_SHA2_256: Final = b"\x12\x20"
_BINARY_BYTES: Final = 36
_DIGEST_BYTES: Final = 32
_TEXT_LENGTH: Final = 59
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_AS_DIGITS: Final = str.maketrans(_BASE32, "0123456789abcdefghijklmnopqrstuv")
# 58 characters of 5 bits are 36 bytes and two bits more, which are zero.
_SPARE_BITS: Final = 2


def cid_of(codec: int, block: bytes) -> bytes:
    """Return the binary CIDv1 of a block."""
    return _VERSION + bytes((codec,)) + _SHA2_256 + hashlib.sha256(block).digest()


def to_text(binary: bytes) -> Cid:
    """Return the base32 text of a binary CID."""
    return Cid("b" + base64.b32encode(binary).decode().lower().rstrip("="))


# A walk over a file looks at each name four times. What is no CID is not kept.
@lru_cache(maxsize=1_024)
def to_binary(cid: str) -> bytes:
    """Return the binary form; raise InvalidRequest if it is not a CID that Viz uses."""
    message = f"{cid[:80]!r} is not a CIDv1 in base32 (bafk... or bafy...)"
    if len(cid) != _TEXT_LENGTH or cid[0] != "b" or cid.strip(_BASE32):
        raise InvalidRequest(message)
    # Several times as fast as ``base64``, and asked for each block.
    value = int(cid[1:].translate(_AS_DIGITS), 32)
    binary = (value >> _SPARE_BITS).to_bytes(_BINARY_BYTES, "big")
    if value % (1 << _SPARE_BITS) or (binary[:1], binary[2:4]) != (_VERSION, _SHA2_256):
        raise InvalidRequest(message)
    if binary[1] not in (RAW, DAG_PB):
        raise InvalidRequest(f"{cid} names neither raw bytes nor a file (codec {binary[1]:#x})")
    return binary


def codec_of(cid: str) -> int:
    """Return RAW or DAG_PB; raise InvalidRequest if it is not a CID that Viz uses."""
    return to_binary(cid)[1]


def verify(cid: str, block: bytes) -> None:
    """Raise BlobCorrupt if ``cid`` is not the CID of ``block``."""
    if hashlib.sha256(block).digest() != to_binary(cid)[-_DIGEST_BYTES:]:
        raise BlobCorrupt(f"the {len(block)} bytes received for block {cid} do not have its hash")
