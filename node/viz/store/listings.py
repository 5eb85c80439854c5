"""Store the verified listings of works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, delete, func, select

from viz.domain.ports.listings import ListingRecord
from viz.domain.units import ContentId
from viz.errors import StoreFull
from viz.store.database import Database, write_row
from viz.store.tables import CustodyTable, ListingTable, table

_LISTINGS: Final = table(ListingTable)
_CUSTODY: Final = table(CustodyTable)


class ListingTables:
    """Implements ListingLedger on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put_listing(self, listing: ListingRecord, *, most: int) -> ListingRecord:
        def work(connection: Connection) -> ListingRecord:
            wanted = select(_LISTINGS).where(_LISTINGS.c.content_id == listing.content_id)
            kept = connection.execute(wanted).first()
            if kept is not None and kept.issued_at >= listing.issued_at:
                return ListingRecord(**kept._mapping)
            count = select(func.count()).select_from(_LISTINGS)
            if kept is None and connection.execute(count).scalar_one() >= most:
                raise StoreFull(f"this node keeps {most} listings and takes no more")
            write_row(connection, _LISTINGS, asdict(listing))
            return listing

        return await self._db.write("put-listing", work)

    async def listing(self, content_id: ContentId) -> ListingRecord | None:
        wanted = select(_LISTINGS).where(_LISTINGS.c.content_id == content_id)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        return None if row is None else ListingRecord(**row._mapping)

    async def listings(self, *, after: ContentId, limit: int) -> Sequence[ListingRecord]:
        wanted = (
            select(_LISTINGS)
            .where(_LISTINGS.c.content_id > after)
            .order_by(_LISTINGS.c.content_id)
            .limit(limit)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [ListingRecord(**row._mapping) for row in rows]

    async def listed_in_custody(self, *, limit: int) -> Sequence[ContentId]:
        wanted = (
            select(_LISTINGS.c.content_id)
            .join(_CUSTODY, _CUSTODY.c.content_id == _LISTINGS.c.content_id)
            .order_by(_LISTINGS.c.content_id)
            .limit(limit)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [ContentId(row.content_id) for row in rows]

    async def drop_listing(self, listing: ListingRecord) -> None:
        gone = delete(_LISTINGS).where(
            _LISTINGS.c.content_id == listing.content_id,
            _LISTINGS.c.issued_at == listing.issued_at,
        )
        await self._db.write("drop-listing", lambda c: c.execute(gone))
