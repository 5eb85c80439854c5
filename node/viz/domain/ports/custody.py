"""Define custody: sealed blobs whose keys a node holds, and the keys that it handed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from viz.domain.units import Address, Cid, ContentId, Hash32


class KeyKind(IntEnum):
    """What a key opens: a work, or an adapter's weights."""

    WORK = 1
    ADAPTER = 2


@dataclass(frozen=True, slots=True)
class CustodyRecord:
    """A sealed work in custody; ``owner`` handed it over."""

    content_id: ContentId
    owner: Address
    cid: Cid
    size_bytes: int
    created_at: int


@dataclass(frozen=True, slots=True)
class HandedKey:
    """A key that was handed out, with the chain's head at the time and the ledger's number."""

    kind: KeyKind
    item_id: int
    requester: Address
    recipient: str
    cid: Cid
    challenge: Hash32
    block: int
    handed_at: int
    seq: int = 0


class CustodyLedger(Protocol):
    """The works in custody, and the durable log of keys handed out."""

    async def put_custody(
        self, work: CustodyRecord, *, most_each_bytes: int, most_bytes: int
    ) -> CustodyRecord | None:
        """Store the record of a work in place of an earlier one, and return the earlier one.

        Raises CustodyFull if the owner's works, or all works, would exceed their limit in bytes.
        """
        ...

    async def custody(self, content_id: ContentId) -> CustodyRecord | None: ...

    async def works_under(self, cid: Cid) -> Sequence[ContentId]:
        """Return the works in custody whose sealed blob has this CID, by id."""
        ...

    async def drop_custody(self, content_id: ContentId) -> None:
        """Forget a work in custody; its bytes count no more."""
        ...

    async def held_bytes(self, owner: Address) -> tuple[int, int]:
        """Return the bytes of the owner's works in custody, and of all works."""
        ...

    async def log_key(self, handed: HandedKey, *, most: int, since: int) -> None:
        """Log a key before it is handed out.

        Raises TooManyQuestions if the requester has got this key ``most`` times since the time
        ``since``, in seconds.
        """
        ...

    async def handed_keys(
        self, kind: KeyKind, item_id: int, *, after: int, limit: int
    ) -> Sequence[HandedKey]:
        """Return the log of a work's or adapter's key, after entry number ``after``."""
        ...


class KeyStore(Protocol):
    """The keys of sealed blobs, by the blobs' CIDs."""

    async def put(self, cid: Cid, key: str) -> None:
        """Store a blob's key durably; raise StorageUnavailable."""
        ...

    async def get(self, cid: Cid) -> str | None:
        """Return a blob's key; None if it is not in this store, or was overwritten to destroy it.

        Raises StorageUnavailable if it is damaged.
        """
        ...

    async def has(self, cid: Cid) -> bool:
        """Return whether there is anything to destroy of a blob's key, also a damaged rest."""
        ...

    async def destroy(self, cid: Cid) -> bool:
        """Destroy a blob's key, or what is left of it; return whether there was anything."""
        ...


class BlobSources(Protocol):
    """Fetches a blob from this node's store, else from other nodes."""

    async def fetch(self, cid: Cid, target: Path, *, urls: Sequence[str], max_bytes: int) -> int:
        """Write the verified blob to ``target`` atomically, and return its size in bytes.

        ``urls`` are nodes to ask, in order, after this node's own store. An interrupted fetch
        continues where it stopped. Raises BlobNotFound if the sources together did not have all of
        it, BlobTooLarge, StorageUnavailable.
        """
        ...
