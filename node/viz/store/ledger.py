"""Combine the tables to one ledger: every Protocol of ``viz.domain.ports.ledger``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from viz.store.access import AccessTables
from viz.store.catalogue import CatalogueTables
from viz.store.chainside import ChainsideTables
from viz.store.channels import ChannelTables
from viz.store.custody import CustodyTables
from viz.store.database import Database
from viz.store.listings import ListingTables
from viz.store.notices import NoticeTables
from viz.store.writer import CommitHook


class SqlStore(
    ChannelTables,
    AccessTables,
    CatalogueTables,
    ChainsideTables,
    ListingTables,
    CustodyTables,
    NoticeTables,
):
    """The ledger of a node, in SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        ChannelTables.__init__(self, database)
        ChainsideTables.__init__(self, database)

    @classmethod
    async def open(
        cls,
        place: Path | str,
        identity: Mapping[str, str],
        hook: CommitHook | None = None,
        *,
        begin: bool = True,
    ) -> SqlStore:
        """Open or create the ledger; see ``Database.open``, also for the errors raised."""
        return cls(await Database.open(place, identity, hook, begin=begin))

    def require_room(self) -> None:
        """Raise StoreFull if the disk has too little space for new work."""
        self._db.room.require()

    def answering(self) -> AbstractContextManager[None]:
        """Count a client's request as long as the context is open; see ``viz.store.lone``."""
        return self._db.writer.lone

    async def close(self) -> None:
        """Finish the requested writes, then close the ledger."""
        await self._db.close()
