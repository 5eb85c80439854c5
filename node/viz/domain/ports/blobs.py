"""Define the blob storage that services use: bytes by their CID."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from viz.domain.units import Cid


class BlobStore(Protocol):
    """Stores bytes by CIDv1; the bytes that it returns always hash to the requested CID."""

    async def add(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes; return their CID (raw leaves, 256 KiB chunks).

        Raises BlobCorrupt, StorageUnavailable (also if the file cannot be read).
        """
        ...

    async def fetch(self, cid: Cid, target: Path, *, max_bytes: int) -> int:
        """Write the blob to ``target`` atomically, and return its size in bytes.

        Raises InvalidRequest for a CID that Viz does not use, as every method does; BlobNotFound,
        BlobCorrupt, BlobTooLarge, StorageUnavailable.
        """
        ...

    async def has(self, cid: Cid) -> bool:
        """Return whether this store has the blob, without asking others."""
        ...

    async def pin(self, cid: Cid) -> None:
        """Protect the blob from deletion; raise BlobNotFound if this store does not have it."""
        ...

    async def unpin(self, cid: Cid) -> None:
        """Allow the deletion of the blob when space is needed; no error if it was not pinned."""
        ...

    async def erase(self, cid: Cid) -> bool:
        """Unpin the blob and delete its blocks from this store; it may be added again.

        Blocks that another pinned blob shares stay. Returns whether anything was there to delete.
        Raises InvalidRequest, StorageError; BlobCorrupt if a damaged block, of this blob or of
        another pinned one, hides the blocks below it: then no block is deleted.
        """
        ...

    async def close(self) -> None: ...


class BlockStore(BlobStore, Protocol):
    """A blob store that also gives out single blocks, verified."""

    async def block(self, cid: Cid) -> bytes:
        """Return one block; raise BlobNotFound, BlobCorrupt, BlobTooLarge, StorageUnavailable."""
        ...


class DeniableStore(BlockStore, Protocol):
    """A block store that can refuse a blob for good."""

    async def deny(self, cid: Cid, reason: str) -> bool:
        """Erase the blob, and never store or hand it out again; ``reason`` is for people.

        Returns whether there was anything to delete. Raises as ``erase``.
        """
        ...

    async def keeps(self, cid: Cid) -> bool:
        """Return whether this store still has the blob, also one that it refuses."""
        ...
