"""Find the blocks that contain a range of a file, depth first, without reading its leaves.

Owns the order of a file's blocks in a CAR, and which blocks a range of bytes needs. Invariants:
inner blocks are read once, leaves never; the number of blocks is limited by the length of the
range, whatever the tree claims.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from viz.domain.units import Cid
from viz.errors import BlobCorrupt
from viz.storage.cid import RAW, codec_of
from viz.storage.unixfs import CHUNK_BYTES, decode_node

# 174^8 chunks are far more than any real file has, so a deeper tree is an attack.
MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class FileBlock:
    """One block of a file: ``size`` bytes, for the file's bytes from ``offset`` on.

    An inner block has its ``data``; a leaf has None, since its data is a part of the file.
    """

    cid: Cid
    size: int
    offset: int
    data: bytes | None


async def blocks_of_span(
    read: Callable[[Cid], Awaitable[bytes]], root: Cid, root_block: bytes, span: range
) -> list[FileBlock]:
    """Return the blocks that verify the bytes ``span`` of the file, depth first, the root first.

    ``read`` returns verified blocks. Raises what it raises, and BlobCorrupt for a tree that is no
    file in chunks of CHUNK_BYTES.
    """
    total = size_of(root, root_block)
    found: list[FileBlock] = []
    waiting = [(root, total, 0, 0)]
    while waiting:
        cid, size, offset, depth = waiting.pop()
        if codec_of(cid) == RAW:
            if size > CHUNK_BYTES or (size != CHUNK_BYTES and offset + size != total):
                raise BlobCorrupt(f"{root} is not laid out in chunks of {CHUNK_BYTES} bytes")
            found.append(FileBlock(cid, size, offset, None))
            continue
        if depth == MAX_DEPTH:
            raise BlobCorrupt(f"{root} is nested deeper than any file")
        data = root_block if cid == root else await read(cid)
        node = decode_node(data)
        if node.file_bytes != size:
            raise BlobCorrupt(
                f"{cid} in {root} has {node.file_bytes} bytes; its parent says {size}"
            )
        found.append(FileBlock(cid, len(data), offset, data))
        inside = []
        for name, part in node.children:
            if offset < span.stop and offset + part > span.start:
                inside.append((name, part, offset, depth + 1))
            offset += part
        waiting += reversed(inside)
    return found


def size_of(root: Cid, block: bytes) -> int:
    """Return the size of a whole file in bytes, from its root ``block``; raise BlobCorrupt."""
    return len(block) if codec_of(root) == RAW else decode_node(block).file_bytes
