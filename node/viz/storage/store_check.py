"""Read every block that pinned blobs need, and get those again that are torn, corrupt or lost.

Owns the walk over all pins and the order of the sources. Invariants: a damaged block is deleted
only when a good copy is there; every block from a source is hashed; a source that failed is not
asked again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, VizError
from viz.storage.base import BlockSource
from viz.storage.cid import RAW, codec_of
from viz.storage.unixfs import IpfsBlock, decode_node

_log = structlog.get_logger()


@dataclass(slots=True)
class StoreCheck:
    """What a check found: the blobs that are pinned, blocks read and got again, what each lacks."""

    pinned: frozenset[Cid] = frozenset()
    blocks: int = 0
    repaired: list[Cid] = field(default_factory=list)
    lost: dict[Cid, list[Cid]] = field(default_factory=dict)

    @property
    def blobs(self) -> int:
        """How many blobs were checked."""
        return len(self.pinned)


@dataclass(frozen=True, slots=True)
class Freed:
    """What a garbage collection deleted, and what is kept, if the store knows it."""

    blocks: int
    freed_bytes: int
    kept_bytes: int | None = None


class CheckedStore(Protocol):
    """What a check needs of a store."""

    async def pinned(self) -> frozenset[Cid]: ...

    async def block(self, cid: Cid) -> bytes: ...

    async def put_block(self, block: IpfsBlock) -> None:
        """Store one block; if the store can, in place of a damaged one."""
        ...


async def check_store(store: CheckedStore, sources: Iterable[BlockSource] = ()) -> StoreCheck:
    """Read every block of every pinned blob; repair from ``sources``, in their order.

    Raises StorageUnavailable if the store itself cannot be asked.
    """
    found, asked = StoreCheck(await store.pinned()), list(sources)
    known: dict[Cid, bool] = {}
    for root in sorted(found.pinned):
        missing: list[Cid] = []
        waiting, seen = [root], {root}
        while waiting:
            cid = waiting.pop()
            is_leaf = codec_of(cid) == RAW
            data = b""
            if cid not in known or (known[cid] and not is_leaf):
                good = await _good_block(store, cid, asked, found)
                found.blocks += cid not in known
                known[cid], data = good is not None, good or b""
            if not known[cid]:
                missing.append(cid)
            elif not is_leaf:
                parts = [name for name, _ in decode_node(data).children if name not in seen]
                seen.update(parts)
                waiting += reversed(list(dict.fromkeys(parts)))
        if missing and root in await store.pinned():
            found.lost[root] = missing
    return found


async def _good_block(
    store: CheckedStore, cid: Cid, sources: list[BlockSource], found: StoreCheck
) -> bytes | None:
    """Return an undamaged block, if necessary from a source; None if it is lost."""
    try:
        return await store.block(cid)
    except (BlobCorrupt, BlobNotFound) as error:
        _log.warning("a block is damaged", cid=cid, reason=error.detail)
    for source in list(sources):
        try:
            data = await source.block(cid)
        except BlobNotFound:
            continue
        except VizError as error:
            _log.warning("a source is asked no more", reason=error.detail)
            sources.remove(source)
            continue
        await store.put_block(IpfsBlock(cid, data))
        # Read again: the disk that lost it may lose it once more.
        try:
            data = await store.block(cid)
        except (BlobCorrupt, BlobNotFound):
            return None
        found.repaired.append(cid)
        return data
    return None
