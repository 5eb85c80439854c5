"""Store blobs on disk, one file per block, without a daemon.

Owns the folder it is given: ``blocks/`` by CID, ``pins/`` with one empty file per pin, ``partial/``
with unfinished writes, ``lock``. Invariants: a block file appears by rename only after its bytes
are on disk, and children before parents, so that after a kill every pinned root is complete;
adding a blob again repairs a damaged block; no block of a pinned blob is deleted. Several processes
may share the folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, StorageUnavailable
from viz.private import make_private_folder, sync_to_disk, write_private
from viz.storage.base import VerifiedBlobStore, chunks_of
from viz.storage.cid import RAW, codec_of, to_binary, verify
from viz.storage.unixfs import MAX_BLOCK_BYTES, IpfsBlock, blocks_of, decode_node

# Older partial files are deleted: no write of one block takes an hour.
_LEFTOVER_AGE_S: Final = 3_600


class EmbeddedBlobStore(VerifiedBlobStore):
    """A ``BlobStore`` in a folder."""

    def __init__(self, folder: Path) -> None:
        """Open or create the store; raise StorageUnavailable if the folder cannot be used."""
        self._blocks = folder / "blocks"
        self._pins = folder / "pins"
        self._partial = folder / "partial"
        self._lock = folder / "lock"
        try:
            make_private_folder(folder)
            for part in (self._blocks, self._pins, self._partial):
                part.mkdir(parents=True, exist_ok=True)
            for leftover in self._partial.iterdir():
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"{folder} cannot hold blobs: {error.strerror}") from error

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

    def _read(self, cid: Cid) -> bytes:
        try:
            with self._path(cid).open("rb") as file:
                return file.read(MAX_BLOCK_BYTES + 1)
        except FileNotFoundError as error:
            raise BlobNotFound(f"{cid} is not in this store") from error
        except OSError as error:
            raise StorageUnavailable(f"{cid} cannot be read: {error.strerror}") from error

    def _unlink(self, cids: Sequence[Cid]) -> None:
        try:
            with self._locked(fcntl.LOCK_EX):
                needed: set[Cid] = set()
                for pin in self._pins.iterdir():
                    needed |= self._blocks_of(Cid(pin.name))
                for cid in cids:
                    path = self._path(cid)
                    if cid not in needed and path.exists():
                        path.unlink()
                        sync_to_disk(path.parent)
        except OSError as error:
            raise StorageUnavailable(f"blocks cannot be deleted: {error.strerror}") from error

    def _store_blocking(self, source: Path | bytes) -> Cid:
        root = Cid("")
        try:
            with self._locked(fcntl.LOCK_SH):
                for block in blocks_of(chunks_of(source)):
                    self._write_block(block)
                    root = block.cid
                self._write_pin(root)
        except OSError as error:
            raise StorageUnavailable(f"the blob cannot be stored: {error.strerror}") from error
        return root

    def _pin(self, cid: Cid) -> None:
        with self._locked(fcntl.LOCK_SH):
            if not self._path(cid).is_file():
                raise BlobNotFound(f"{cid} is not in this store, so it cannot be pinned")
            self._write_pin(cid)

    def _blocks_of(self, root: Cid) -> set[Cid]:
        """Return the blob's blocks in this store, without what is below a damaged block."""
        found: set[Cid] = set()
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            found.add(cid)
            try:
                if codec_of(cid) != RAW:
                    data = self._read(cid)
                    verify(cid, data)
                    waiting += [name for name, _ in decode_node(data).children if name not in found]
            except (BlobNotFound, BlobCorrupt):
                continue
        return found

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the store's lock: shared to add blobs, exclusive to delete blocks."""
        with self._lock.open("a") as file:
            fcntl.flock(file, how)
            yield

    def _write_block(self, block: IpfsBlock) -> None:
        path = self._path(block.cid)
        try:
            if path.read_bytes() == block.data:
                return
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
        self._write_durably(path, block.data)

    def _write_pin(self, cid: Cid) -> None:
        self._write_durably(self._pins / cid, b"")

    def _write_durably(self, path: Path, data: bytes) -> None:
        write_private(path, data, self._partial / uuid.uuid4().hex)
        sync_to_disk(path.parent.parent)
