"""Define the durable records of listings, and their Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from viz.domain.units import ContentId


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """A verified listing; ``document`` is its canonical JSON, ``received_at`` seconds."""

    content_id: ContentId
    issued_at: int
    document: bytes
    signature: bytes
    received_at: int


class ListingLedger(Protocol):
    """The listings that this node keeps, at most one of each work."""

    async def put_listing(self, listing: ListingRecord, *, most: int) -> ListingRecord:
        """Keep a listing unless one issued at the same time or later is kept; return what is kept.

        ``most`` bounds their number: beyond it a work without a listing gets none, and StoreFull is
        raised.
        """
        ...

    async def listing(self, content_id: ContentId) -> ListingRecord | None: ...

    async def listings(self, *, after: ContentId, limit: int) -> Sequence[ListingRecord]:
        """Return up to ``limit`` listings of works above ``after``, by their ids."""
        ...

    async def drop_listing(self, listing: ListingRecord) -> None:
        """Delete this listing; a newer one of the same work stays."""
        ...
