"""Store blobs on disk, one file per block, without a daemon.

Owns the folder it is given: ``blocks/`` by CID, ``pins/`` with one empty file per pin, ``partial/``
with unfinished writes, ``lock``. Invariants: a block file appears by rename only after its bytes
are on disk, and children before parents, so that after a kill every pinned root is complete;
adding a blob again repairs a damaged block; no block of a pinned blob is deleted; the quota holds
for all processes that share the folder.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from typing import Final

from viz.domain.units import Cid
from viz.errors import (
    BlobCorrupt,
    BlobNotFound,
    InvalidRequest,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from viz.private import make_private_folder, sync_to_disk, write_private
from viz.storage.base import VerifiedBlobStore, chunks_of
from viz.storage.block_writer import BlockWriter
from viz.storage.cid import RAW, codec_of, to_binary, verify
from viz.storage.disk import begin_writing, forget
from viz.storage.store_check import Freed
from viz.storage.unixfs import CHUNK_BYTES, MAX_BLOCK_BYTES, IpfsBlock, blocks_of, decode_node
from viz.storage.walk import FileWalk, add_pinned

# Older partial files are deleted: no write of one block takes an hour.
_LEFTOVER_AGE_S: Final = 3_600
_LOCK_PAUSE_S: Final = 0.05
# 16 MiB of a file for each turn of a thread: a cancelled fetch ends with its turn.
_BLOCKS_AT_ONCE: Final = 64
# Blocks that are read and hashed while as many before them are written.
_GROUP: Final = 4
_FORGET_BYTES: Final = 16 * 1024 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class EmbeddedBlobStore(VerifiedBlobStore):
    """A ``BlobStore`` in a folder."""

    def __init__(self, folder: Path, *, max_bytes: int = 0, lock_timeout_s: float = 60) -> None:
        """Open or create the store; raise StorageUnavailable if the folder cannot be used.

        ``max_bytes`` bounds what all blocks have together (0: the disk does). ``lock_timeout_s`` is
        how long to wait for another process that adds or deletes.
        """
        self._folder, self._max_bytes, self._lock_timeout_s = folder, max_bytes, lock_timeout_s
        self._blocks = folder / "blocks"
        self._pins = folder / "pins"
        self._partial = folder / "partial"
        self._lock = folder / "lock"
        try:
            make_private_folder(folder)
            for part in (self._blocks, self._pins, self._partial):
                part.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        except OSError as error:
            raise StorageUnavailable(f"{folder} cannot hold blobs: {error.strerror}") from error

    async def add(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes; return their CID (raw leaves, 256 KiB chunks).

        The name is made of the bytes as they are written, so they are read and hashed once. Raises
        StorageFull, and StorageUnavailable, also if the file cannot be read.
        """
        return await self._store(source)

    async def has(self, cid: Cid) -> bool:
        """Return whether the store has the blob's root; its children were stored before it."""
        to_binary(cid)
        return await asyncio.to_thread(self._path(cid).is_file)

    async def pin(self, cid: Cid) -> None:
        """Protect the blob from deletion; raise BlobNotFound if this store does not have it."""
        to_binary(cid)
        await asyncio.to_thread(self._pin, cid)

    async def unpin(self, cid: Cid) -> None:
        """Allow the deletion of the blob when space is needed; no error if it was not pinned."""
        to_binary(cid)
        await asyncio.to_thread((self._pins / cid).unlink, missing_ok=True)

    async def pinned(self) -> frozenset[Cid]:
        """Return the pinned roots."""
        names = await asyncio.to_thread(lambda: [path.name for path in self._pins.iterdir()])
        return frozenset(Cid(name) for name in names)

    async def put_block(self, block: IpfsBlock) -> None:
        """Store one block, in the place of a damaged one. Raises StorageUnavailable."""
        await asyncio.to_thread(self._put, block)

    async def gc(self) -> Freed:
        """Delete the blocks that no pinned blob needs, and what writers left behind.

        Raises BlobCorrupt, and deletes nothing, if a pinned blob is damaged so that its blocks are
        not known; StorageUnavailable.
        """
        return await asyncio.to_thread(self._gc)

    async def block(self, cid: Cid) -> bytes:
        """Return one verified block; raise BlobNotFound, BlobCorrupt, StorageUnavailable."""
        codec_of(cid)
        return await asyncio.to_thread(self._verified, cid)

    async def _copy(self, cid: Cid, file: BufferedWriter, max_bytes: int) -> int:
        """Write the blob's verified bytes to ``file``, a few blocks at a time in one thread."""
        codec_of(cid)
        walk, written = FileWalk(cid, max_bytes), 0
        while walk.wanted is not None:
            written += await asyncio.to_thread(self._copy_some, walk, file)
        return written

    async def _delete(self, cids: Sequence[Cid]) -> None:
        await asyncio.to_thread(self._unlink, cids)

    async def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    async def _read_block(self, cid: Cid) -> bytes:
        return await asyncio.to_thread(self._read, cid)

    async def _store(self, source: Path | bytes) -> Cid:
        return await asyncio.to_thread(self._store_blocking, source)

    def _path(self, cid: Cid) -> Path:
        # The folder is named by the two characters before the last: the last has only few bits of
        # the hash, so it would spread the files badly.
        return self._blocks / cid[-3:-1] / cid

    def _read(self, cid: Cid, *, last: bool = False) -> bytes:
        try:
            # Unbuffered, and no larger than it is: this is what fetching a blob mostly does.
            with self._path(cid).open("rb", buffering=0) as file:
                size = min(os.fstat(file.fileno()).st_size, MAX_BLOCK_BYTES + 1)
                data = file.read(size)
                if last:
                    forget(file, 0, size)
                return data
        except FileNotFoundError as error:
            raise BlobNotFound(f"{cid} is not in this store") from error
        except OSError as error:
            raise StorageUnavailable(f"{cid} cannot be read: {error.strerror}") from error

    def _unlink(self, cids: Sequence[Cid]) -> None:
        try:
            with self._locked(fcntl.LOCK_EX):
                needed = self._needed()
                for cid in cids:
                    path = self._path(cid)
                    if cid not in needed and path.exists():
                        path.unlink()
                        sync_to_disk(path.parent)
        except OSError as error:
            raise StorageUnavailable(f"blocks cannot be deleted: {error.strerror}") from error

    def _verified(self, cid: Cid, *, last: bool = False) -> bytes:
        data = self._read(cid, last=last)
        verify(cid, data)
        return data

    def _verified_all(self, cids: Sequence[Cid], last: bool) -> list[bytes]:
        return [self._verified(cid, last=last) for cid in cids]

    def _copy_some(self, walk: FileWalk, file: BufferedWriter) -> int:
        """Write some blocks' bytes; the next are read and hashed while the last are written.

        The memory that caches a large blob's blocks is used again for its copy.
        """
        if walk.wanted is None:
            return 0
        leaves = walk.leaves_ahead(_BLOCKS_AT_ONCE)
        if not leaves:
            walk.take(self._verified(walk.wanted))
            return 0
        written, last = 0, len(leaves) == _BLOCKS_AT_ONCE
        groups = [leaves[start : start + _GROUP] for start in range(0, len(leaves), _GROUP)]
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(self._verified_all, groups[0], last)
            for following in (*groups[1:], ()):
                blocks = reading.result()
                reading = reader.submit(self._verified_all, following, last)
                for data in blocks:
                    written += file.write(walk.take(data) or b"")
        begin_writing(file)
        return written

    def _store_blocking(self, source: Path | bytes) -> Cid:
        try:
            # With a quota, lock exclusively: two writers must not both use the last room.
            with self._locked(fcntl.LOCK_EX if self._max_bytes else fcntl.LOCK_SH):
                return self._store_locked(source)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise StorageUnavailable(f"the blob cannot be stored: {error.strerror}") from error
        # What was written of it is garbage now, on a disk that has no room for any.
        with suppress(StorageError):
            self._gc()
        raise StorageFull(f"the disk that holds {self._folder} is full: nothing was stored")

    def _store_locked(self, source: Path | bytes) -> Cid:
        with BlockWriter(self._path, self._partial, room_bytes=self._room(source)) as writer:
            root = Cid("")
            try:
                for block in blocks_of(_readable(source)):
                    writer.write(block)
                    root = block.cid
                writer.flush()
            except StorageFull as error:
                writer.undo()
                raise StorageFull(
                    f"{self._folder} may hold {self._max_bytes} bytes (storage.max_bytes) and has "
                    "no room for this blob: nothing was stored. Raise the quota, or give up blobs"
                ) from error
        self._write_pin(root)
        return root

    def _room(self, source: Path | bytes) -> int | None:
        """Return how many bytes may be added, after deleting garbage if that is needed."""
        if not self._max_bytes:
            return None
        room = self._max_bytes - self._usage()
        size = len(source) if isinstance(source, bytes) else _size_of(source)
        if size > room:
            with suppress(BlobCorrupt):
                self._collect()
            room = self._max_bytes - self._usage()
        return room

    def _put(self, block: IpfsBlock) -> None:
        try:
            with self._locked(fcntl.LOCK_SH), BlockWriter(self._path, self._partial) as writer:
                writer.write(block)
                writer.flush()
        except OSError as error:
            raise StorageUnavailable(f"{block.cid} cannot be stored: {error.strerror}") from error

    def _gc(self) -> Freed:
        try:
            with self._locked(fcntl.LOCK_EX):
                self._remove_leftovers()
                blocks, freed = self._collect()
                return Freed(blocks, freed, self._usage())
        except OSError as error:
            raise StorageUnavailable(f"blocks cannot be deleted: {error.strerror}") from error

    def _collect(self) -> tuple[int, int]:
        """Delete the blocks that no pin needs, with the lock held alone; return count and bytes."""
        needed = self._needed()
        garbage = [each for each in self._files() if each[0] not in needed]
        # Parents first: after a kill in between, no root is here without what is below it.
        garbage.sort(key=lambda each: self._bytes_below(Cid(each[0])), reverse=True)
        for _, path, _ in garbage:
            Path(path).unlink(missing_ok=True)
        return len(garbage), sum(size for _, _, size in garbage)

    def _bytes_below(self, cid: Cid) -> float:
        """Return how much of a file is below an inner block; 0 for a leaf, damaged ones first."""
        try:
            return 0 if codec_of(cid) == RAW else decode_node(self._verified(cid)).file_bytes
        except (BlobNotFound, BlobCorrupt, InvalidRequest):
            return float("inf")

    def _needed(self) -> set[Cid]:
        """Return the blocks of all pinned blobs; raise BlobCorrupt if they are not all known."""
        needed: set[Cid] = set()
        for pin in self._pins.iterdir():
            add_pinned(Cid(pin.name), self._verified, needed)
        return needed

    def _files(self) -> Iterator[tuple[str, str, int]]:
        """Yield name, path and size in bytes of every block's file."""
        with os.scandir(self._blocks) as folders:
            for folder in folders:
                with os.scandir(folder.path) as files:
                    for file in files:
                        with suppress(FileNotFoundError):
                            yield file.name, file.path, file.stat().st_size

    def _usage(self) -> int:
        return sum(size for _, _, size in self._files())

    def _remove_leftovers(self) -> None:
        for leftover in self._partial.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                    leftover.unlink()

    def _pin(self, cid: Cid) -> None:
        with self._locked(fcntl.LOCK_SH):
            if not self._path(cid).is_file():
                raise BlobNotFound(f"{cid} is not in this store, so it cannot be pinned")
            self._write_pin(cid)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the store's lock: shared to add blobs, exclusive to delete blocks.

        Raises StorageBusy if another process holds it for too long.
        """
        with self._lock.open("a") as file:
            until = time.monotonic() + self._lock_timeout_s
            while True:
                try:
                    fcntl.flock(file, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise StorageBusy(
                            f"another process has used {self._folder} for "
                            f"{self._lock_timeout_s:g} s: try again when it is done"
                        ) from None
                    time.sleep(_LOCK_PAUSE_S)
            yield

    def _write_pin(self, cid: Cid) -> None:
        write_private(self._pins / cid, b"", self._partial / uuid.uuid4().hex)


def _readable(source: Path | bytes) -> Iterator[bytes]:
    """Yield the chunks of a source; raise StorageUnavailable if it cannot be read.

    A file is read once, so the memory that caches it is used again for its blocks.
    """
    if isinstance(source, bytes):
        yield from chunks_of(source)
        return
    try:
        with source.open("rb") as file:
            read = forgotten = 0
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                read += len(chunk)
                if read - forgotten >= _FORGET_BYTES:
                    forget(file, forgotten, read - forgotten)
                    forgotten = read
    except OSError as error:
        raise StorageUnavailable(f"{source!s} cannot be read: {error.strerror}") from error


def _size_of(source: Path) -> int:
    try:
        return source.stat().st_size
    except OSError as error:
        raise StorageUnavailable(f"{source} cannot be read: {error.strerror}") from error
