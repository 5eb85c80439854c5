"""A blob store in memory. The behaviour suite in tests/integration/storage keeps it honest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from viz.domain.units import Cid
from viz.errors import BlobNotFound
from viz.storage.base import VerifiedBlobStore, chunks_of
from viz.storage.cid import to_binary
from viz.storage.unixfs import IpfsBlock, blocks_of


class MemoryBlobStore(VerifiedBlobStore):
    """Blocks in a dictionary, open to a test that wants to damage or lose one."""

    def __init__(self) -> None:
        self.blocks: dict[Cid, bytes] = {}
        self.pins: set[Cid] = set()

    async def has(self, cid: Cid) -> bool:
        to_binary(cid)
        return cid in self.blocks

    async def pin(self, cid: Cid) -> None:
        if not await self.has(cid):
            raise BlobNotFound(f"{cid} is not here")
        self.pins.add(cid)

    async def unpin(self, cid: Cid) -> None:
        to_binary(cid)
        self.pins.discard(cid)

    async def _delete(self, cids: Sequence[Cid]) -> None:
        kept = {cid for root in self.pins for cid in await self._names_in(root)}
        for cid in cids:
            if cid not in kept:
                self.blocks.pop(cid, None)

    async def close(self) -> None:
        pass

    async def _read_block(self, cid: Cid) -> bytes:
        try:
            return self.blocks[cid]
        except KeyError:
            raise BlobNotFound(f"{cid} is not here") from None

    async def _store(self, source: Path | bytes) -> Cid:
        blocks: list[IpfsBlock] = await asyncio.to_thread(
            lambda: list(blocks_of(chunks_of(source)))
        )
        self.blocks |= {block.cid: block.data for block in blocks}
        self.pins.add(blocks[-1].cid)
        return blocks[-1].cid
