"""Define the durable records of listings, and their Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from viz.domain.units import ContentId


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """A verified listing; ``document`` is its canonical JSON, times are seconds since 1970."""

    content_id: ContentId
    issued_at: int
    document: bytes
    signature: bytes
    received_at: int


class ListingLedger(Protocol):
    """The listings that this node stores, at most one for each work."""

    async def put_listing(self, listing: ListingRecord, *, most: int) -> ListingRecord:
        """Store a listing if it is newer than the stored one; return the one stored then.

        Raises StoreFull if ``most`` listings are stored and none of them is of this work.
        """
        ...

    async def listing(self, content_id: ContentId) -> ListingRecord | None: ...

    async def listings(self, *, after: ContentId, limit: int) -> Sequence[ListingRecord]:
        """Return up to ``limit`` listings of works above ``after``, by their ids."""
        ...

    async def listed_in_custody(self, *, limit: int) -> Sequence[ContentId]:
        """Return up to ``limit`` works that are listed and in custody here, by their ids."""
        ...

    async def drop_listing(self, listing: ListingRecord) -> None:
        """Delete this listing, but not a newer one of the same work."""
        ...
