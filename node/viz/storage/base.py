"""The two base classes of blob storage; through them nothing unverified is ever read or named.

Owns the walk from a root to a file, the size bound, the atomic target file, and the comparison of
a backend's CID with our own. Does not know where blocks lie: a backend supplies single blocks and
storing. Invariants: every block is hashed before it is used; a blob has exactly the layout that
``unixfs`` gives its bytes, so its CID is a function of the bytes alone; a failed fetch leaves no
file behind, and a file that is there is whole.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Final

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobTooLarge, StorageUnavailable
from viz.storage.cid import RAW, codec_of, verify
from viz.storage.unixfs import CHUNK_BYTES, TreeBuilder, decode_node, split

# 174^8 chunks are far more than any file; a deeper tree is an attack.
_MAX_DEPTH: Final = 8


class BlockSource(ABC):
    """Something that has blocks by CID, trusted in nothing."""

    @abstractmethod
    async def _read_block(self, cid: Cid) -> bytes:
        """Return the block's bytes, at most MAX_BLOCK_BYTES of them, unverified.

        Raises BlobNotFound, BlobTooLarge, StorageUnavailable; bounded in time.
        """

    async def block(self, cid: Cid) -> bytes:
        """Return one verified block: what a trustless gateway answers.

        Raises InvalidRequest, BlobNotFound, BlobCorrupt, BlobTooLarge, StorageUnavailable.
        """
        codec_of(cid)
        data = await self._read_block(cid)
        await asyncio.to_thread(verify, cid, data)
        return data

    async def fetch(self, cid: Cid, target: Path, *, max_bytes: int) -> int:
        """Write the blob to ``target`` (atomically) and return its size in bytes.

        Raises InvalidRequest, BlobNotFound, BlobCorrupt, BlobTooLarge, StorageUnavailable.
        """
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        written = 0
        try:
            # Buffered, so closing waits for a write that a cancelled task left running.
            with await asyncio.to_thread(_open_exclusive, partial) as file:
                async for chunk in self.chunks(cid, max_bytes=max_bytes):
                    await asyncio.to_thread(file.write, chunk)
                    written += len(chunk)
                await asyncio.to_thread(_flush_to_disk, file)
            await asyncio.to_thread(partial.replace, target)
        except OSError as error:
            raise StorageUnavailable(f"{target} cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return written

    async def chunks(self, root: Cid, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield the file's verified chunks in order; refuse what is too large before fetching it.

        Raises as ``fetch``, perhaps after the first chunks: what was yielded is part of the blob.
        """
        waiting: list[tuple[Cid, int | None, int]] = [(root, None, 0)]
        while waiting:
            cid, expected, depth = waiting.pop()
            data = await self.block(cid)
            is_leaf = codec_of(cid) == RAW
            node = None if is_leaf else decode_node(data)
            size = len(data) if node is None else node.file_bytes
            if size > max_bytes:
                raise BlobTooLarge(f"{root} has {size} bytes; at most {max_bytes} are taken")
            if expected is not None and size != expected:
                raise BlobCorrupt(f"{cid} in {root} has {size} bytes; its parent says {expected}")
            if node is not None:
                if depth == _MAX_DEPTH:
                    raise BlobCorrupt(f"{root} is nested deeper than any file")
                waiting += [(name, part, depth + 1) for name, part in reversed(node.children)]
            elif len(data) > CHUNK_BYTES or (waiting and len(data) != CHUNK_BYTES):
                raise BlobCorrupt(f"{root} is not laid out in chunks of {CHUNK_BYTES} bytes")
            else:
                yield data


class VerifiedBlobStore(BlockSource):
    """A ``BlobStore`` (viz.domain.ports): what it stores and returns is checked here, not there."""

    async def add(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes; return their CID (raw leaves, 256 KiB chunks).

        Raises BlobCorrupt when the backend names it otherwise than its bytes (or the file changed
        meanwhile), StorageUnavailable (also when the file cannot be read).
        """
        try:
            expected = await asyncio.to_thread(_root_of, source)
        except OSError as error:
            raise StorageUnavailable(f"{source!s} cannot be read: {error.strerror}") from error
        stored = await self._store(source)
        if stored != expected:
            raise BlobCorrupt(f"the store named the bytes {stored}; they are {expected}")
        return expected

    @abstractmethod
    async def _store(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes durably; return the CID that the backend gave them."""

    @abstractmethod
    async def has(self, cid: Cid) -> bool:
        """Return whether the blob is here, without asking anybody else."""

    @abstractmethod
    async def pin(self, cid: Cid) -> None:
        """Keep the blob. Raises BlobNotFound when it is not here."""

    @abstractmethod
    async def unpin(self, cid: Cid) -> None:
        """Let the blob go when space is needed; no error when it was not pinned."""

    @abstractmethod
    async def close(self) -> None:
        """Release what the backend holds; the store is not used afterwards."""


def size_of(root: Cid, block: bytes) -> int:
    """Return the bytes of the whole file, of which ``block`` is the root; raise BlobCorrupt."""
    return len(block) if codec_of(root) == RAW else decode_node(block).file_bytes


def chunks_of(source: Path | bytes) -> Iterator[bytes]:
    """Yield the chunks of a file or of bytes; blocking. Raises OSError."""
    if isinstance(source, bytes):
        yield from split(source)
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _root_of(source: Path | bytes) -> Cid:
    builder = TreeBuilder()
    for chunk in chunks_of(source):
        for _ in builder.feed(chunk):
            pass
    for _ in builder.finish():
        pass
    return builder.root


def _open_exclusive(path: Path) -> BufferedWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _flush_to_disk(file: BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())
