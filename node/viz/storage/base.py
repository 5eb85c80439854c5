"""Define the two base classes of blob storage, which verify every block.

Owns the walk from a root to a file, the size bound, the atomic write of the target file, and the
comparison of a backend's CID with our own. A backend reads single blocks and stores blobs.
Invariants: every block is hashed before it is used; a blob has exactly the layout that ``unixfs``
gives its bytes, so its CID depends on the bytes alone; a failed fetch leaves no file behind, and
an existing target file is complete.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from io import BufferedWriter
from pathlib import Path

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, StorageUnavailable
from viz.storage.cid import RAW, codec_of, verify
from viz.storage.unixfs import CHUNK_BYTES, decode_node, root_of_chunks, split
from viz.storage.walk import FileWalk


class BlockSource(ABC):
    """A source of blocks by CID that is not trusted: every block is verified."""

    @abstractmethod
    async def _read_block(self, cid: Cid) -> bytes:
        """Return the block's bytes, at most MAX_BLOCK_BYTES of them, unverified.

        Raises BlobNotFound, BlobTooLarge, StorageUnavailable; bounded in time.
        """

    async def block(self, cid: Cid) -> bytes:
        """Return one verified block, as a trustless gateway serves it.

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
        try:
            # A buffered file, because its close waits for a write that still runs in a thread
            # after this task was cancelled.
            with await asyncio.to_thread(_open_exclusive, partial) as file:
                written = await self._copy(cid, file, max_bytes)
                await asyncio.to_thread(_flush_to_disk, file)
            await asyncio.to_thread(partial.replace, target)
        except OSError as error:
            raise StorageUnavailable(f"{target} cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return written

    async def _copy(self, cid: Cid, file: BufferedWriter, max_bytes: int) -> int:
        """Write the blob's verified bytes to ``file``, and return how many."""
        written = 0
        async for chunk in self.chunks(cid, max_bytes=max_bytes):
            await asyncio.to_thread(file.write, chunk)
            written += len(chunk)
        return written

    async def chunks(self, root: Cid, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield the file's verified chunks in order; refuse a large file before fetching its parts.

        Raises the errors of ``fetch``, possibly after the first chunks, which are part of the blob.
        """
        walk = FileWalk(root, max_bytes)
        while (cid := walk.wanted) is not None:
            chunk = walk.take(await self.block(cid))
            if chunk is not None:
                yield chunk


class VerifiedBlobStore(BlockSource):
    """Base class of every ``BlobStore`` (viz.domain.ports): checks what a backend stores."""

    async def add(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes; return their CID (raw leaves, 256 KiB chunks).

        Raises BlobCorrupt if the backend's CID is not that of the bytes (or the file changed
        meanwhile), and StorageUnavailable, also if the file cannot be read.
        """
        try:
            expected = await asyncio.to_thread(root_of_source, source)
        except OSError as error:
            raise StorageUnavailable(f"{source!s} cannot be read: {error.strerror}") from error
        stored = await self._store(source)
        if stored != expected:
            raise BlobCorrupt(f"the store returned the CID {stored}; the bytes are {expected}")
        return expected

    @abstractmethod
    async def _store(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes durably; return the CID that the backend gave them."""

    @abstractmethod
    async def has(self, cid: Cid) -> bool:
        """Return whether this store has the blob, without asking others."""

    @abstractmethod
    async def pin(self, cid: Cid) -> None:
        """Protect the blob from deletion; raise BlobNotFound if this store does not have it."""

    @abstractmethod
    async def unpin(self, cid: Cid) -> None:
        """Allow the deletion of the blob when space is needed; no error if it was not pinned."""

    async def erase(self, cid: Cid) -> bool:
        """Unpin the blob and delete its blocks, except those that another pinned blob has too.

        Returns whether there was anything to delete. Raises InvalidRequest, StorageError: if a
        damaged block, of this blob or of another pinned one, hides what is below it, BlobCorrupt,
        and no block is deleted.
        """
        await self.unpin(cid)
        if not await self.has(cid):
            return False
        # Leaves first: after a kill in between, the root is still there to find the rest.
        await self._delete(tuple(reversed(await self._names_in(cid))))
        return True

    async def _names_in(self, root: Cid) -> list[Cid]:
        """Return the CIDs of a blob's blocks that this store has, the root first."""
        found, waiting = dict[Cid, None](), [root]
        while waiting:
            cid = waiting.pop()
            if cid in found or not await self.has(cid):
                continue
            found[cid] = None
            if codec_of(cid) != RAW:
                waiting += [name for name, _ in decode_node(await self.block(cid)).children]
        return list(found)

    @abstractmethod
    async def _delete(self, cids: Sequence[Cid]) -> None:
        """Delete blocks in this order, except those of pinned blobs."""

    @abstractmethod
    async def close(self) -> None:
        """Release the backend's resources; the store must not be used afterwards."""


def chunks_of(source: Path | bytes) -> Iterator[bytes]:
    """Yield the chunks of a file or of bytes. Blocks. Raises OSError."""
    if isinstance(source, bytes):
        yield from split(source)
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def root_of_source(source: Path | bytes) -> Cid:
    """Return the CID that ``add`` would give a file or bytes. Blocks. Raises OSError."""
    return root_of_chunks(chunks_of(source))


def _open_exclusive(path: Path) -> BufferedWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _flush_to_disk(file: BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())
