"""Refuse denied blobs before any backend is asked.

Wraps any blob store. Invariants: a blob is put on the deny list before its blocks are deleted, so
that after a kill it is denied or still whole; a denied blob is not stored, fetched, pinned or
served again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from viz.domain.ports.blobs import BlockStore
from viz.domain.units import Cid
from viz.errors import BlobDenied
from viz.storage.deny_list import DenyList


class DenyingBlobStore:
    """A ``DeniableStore`` (viz.domain.ports.blobs): obeys a deny list."""

    def __init__(self, store: BlockStore, denied: DenyList) -> None:
        self._store, self._denied = store, denied

    async def add(self, source: Path | bytes) -> Cid:
        cid = await self._store.add(source)
        if cid in self._denied:
            await self._store.erase(cid)
            self._refuse(cid)
        return cid

    async def fetch(self, cid: Cid, target: Path, *, max_bytes: int) -> int:
        self._refuse(cid)
        return await self._store.fetch(cid, target, max_bytes=max_bytes)

    async def has(self, cid: Cid) -> bool:
        self._refuse(cid)
        return await self._store.has(cid)

    async def pin(self, cid: Cid) -> None:
        self._refuse(cid)
        await self._store.pin(cid)

    async def unpin(self, cid: Cid) -> None:
        await self._store.unpin(cid)

    async def erase(self, cid: Cid) -> bool:
        return await self._store.erase(cid)

    async def deny(self, cid: Cid, reason: str) -> bool:
        """Deny the blob permanently, then erase it; return whether there was anything to delete."""
        await asyncio.to_thread(self._denied.add, cid, reason)
        return await self._store.erase(cid)

    async def keeps(self, cid: Cid) -> bool:
        """Return whether the blob is still stored: a denied one may not have been erased yet."""
        return await self._store.has(cid)

    async def block(self, cid: Cid) -> bytes:
        self._refuse(cid)
        return await self._store.block(cid)

    async def close(self) -> None:
        await self._store.close()

    def _refuse(self, cid: Cid) -> None:
        if cid in self._denied:
            raise BlobDenied(
                f"{cid} is no longer stored or served here: the use of a work in it has ended"
            )
