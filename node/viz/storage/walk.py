"""Walk the tree of a file's blocks, depth first, for its bytes or for the blocks of a span.

Owns the order of the blocks, the limits of a walk, and which blocks a range of bytes needs.
Invariant: the number of blocks walked is limited by the bytes asked for, whatever the tree claims.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, BlobTooLarge
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
    """Return the blocks that verify the bytes ``span`` of the file, the root first.

    Inner blocks are read once, leaves never.

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


def add_pinned(root: Cid, read: Callable[[Cid], bytes], needed: set[Cid]) -> None:
    """Add the blocks of a pinned blob to ``needed``; leaves are not read. Blocks the thread.

    ``read`` returns verified blocks of this store. Raises what else it raises, and BlobCorrupt if
    a block is lost or damaged, so that it is not known what the blob needs. What is below a block
    that is whole and no file's is its program's alone to know.
    """
    waiting = [root]
    while waiting:
        cid = waiting.pop()
        if cid in needed:
            continue
        needed.add(cid)
        if codec_of(cid) == RAW:
            continue
        try:
            data = read(cid)
        except (BlobNotFound, BlobCorrupt) as error:
            raise BlobCorrupt(
                f"{root} is pinned, and its block {cid} is damaged: which blocks it needs is not "
                "known, so nothing is deleted. Repair it: `viz storage verify`"
            ) from error
        with suppress(BlobCorrupt):
            waiting += [name for name, _ in decode_node(data).children]


class FileWalk:
    """The way from a root to a file's bytes, one block at a time; the caller reads the blocks.

    ``wanted`` is the block to read next, None at the end; ``take`` is given its verified bytes.
    """

    def __init__(self, root: Cid, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._waiting: list[tuple[Cid, int | None, int]] = [(root, None, 0)]

    @property
    def wanted(self) -> Cid | None:
        """The CID of the next block."""
        return self._waiting[-1][0] if self._waiting else None

    def leaves_ahead(self, most: int) -> list[Cid]:
        """Return the next blocks in their order as far as they are leaves, ``most`` of them."""
        found: list[Cid] = []
        for cid, _, _ in reversed(self._waiting):
            if len(found) == most or codec_of(cid) != RAW:
                break
            found.append(cid)
        return found

    def take(self, data: bytes) -> bytes | None:
        """Continue with the wanted block; return its bytes if they are a part of the file.

        Raises BlobTooLarge before any part of a file that is too large, and BlobCorrupt if the tree
        is not a file.
        """
        cid, expected, depth = self._waiting.pop()
        node = None if codec_of(cid) == RAW else decode_node(data)
        size = len(data) if node is None else node.file_bytes
        if size > self._max_bytes:
            raise BlobTooLarge(
                f"{self._root} has {size} bytes; at most {self._max_bytes} are accepted"
            )
        if expected is not None and size != expected:
            raise BlobCorrupt(f"{cid} in {self._root} has {size} bytes; its parent says {expected}")
        if node is None:
            if len(data) > CHUNK_BYTES or (self._waiting and len(data) != CHUNK_BYTES):
                raise BlobCorrupt(f"{self._root} is not laid out in chunks of {CHUNK_BYTES} bytes")
            return data
        if depth == MAX_DEPTH:
            raise BlobCorrupt(f"{self._root} is nested deeper than any file")
        self._waiting += [(name, part, depth + 1) for name, part in reversed(node.children)]
        return None


def size_of(root: Cid, block: bytes) -> int:
    """Return the size of a whole file in bytes, from its root ``block``; raise BlobCorrupt."""
    return len(block) if codec_of(root) == RAW else decode_node(block).file_bytes
