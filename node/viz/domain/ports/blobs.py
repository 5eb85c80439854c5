"""Bytes by their CID: what the services ask of a storage.

Owns the Protocol alone. Does not know where the bytes lie nor who else holds them; encryption and
meaning are above it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from viz.domain.units import Cid


class BlobStore(Protocol):
    """Bytes by CIDv1; whatever it returns hashes to the name it was asked for."""

    async def add(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes; return their CID (raw leaves, 256 KiB chunks).

        Raises BlobCorrupt, StorageUnavailable (also when the file cannot be read).
        """
        ...

    async def fetch(self, cid: Cid, target: Path, *, max_bytes: int) -> int:
        """Write the blob to ``target``, whole or not at all, and return its size in bytes.

        Raises InvalidRequest for what is no CID of ours, as every method does; BlobNotFound,
        BlobCorrupt, BlobTooLarge, StorageUnavailable.
        """
        ...

    async def has(self, cid: Cid) -> bool:
        """Return whether the blob is here, without asking anybody else."""
        ...

    async def pin(self, cid: Cid) -> None:
        """Keep the blob; once is enough. Raises BlobNotFound when it is not here."""
        ...

    async def unpin(self, cid: Cid) -> None:
        """Let the blob go when space is needed; no error when it was not pinned."""
        ...

    async def close(self) -> None: ...


class BlockStore(BlobStore, Protocol):
    """A blob store that also gives out single blocks, and a blob piece by piece, all verified."""

    async def block(self, cid: Cid) -> bytes: ...

    def chunks(self, root: Cid, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield verified chunks of at most 256 KiB, in order.

        A fault raises at its chunk: the chunks before it were already given out.
        """
        ...
