"""The ledger as one object: every Protocol of ``viz.domain.ledger`` on one database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from viz.store.access import AccessTables
from viz.store.catalogue import CatalogueTables
from viz.store.chainside import ChainsideTables
from viz.store.channels import ChannelTables
from viz.store.database import Database
from viz.store.writer import CommitHook


class SqlStore(ChannelTables, AccessTables, CatalogueTables, ChainsideTables):
    """The Store of a node, in SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        ChannelTables.__init__(self, database)
        ChainsideTables.__init__(self, database)

    @classmethod
    async def open(
        cls, place: Path | str, identity: Mapping[str, str], hook: CommitHook | None = None
    ) -> SqlStore:
        """Open or create the ledger; see ``Database.open``. Raises BooksMismatch, StoreError."""
        return cls(await Database.open(place, identity, hook))

    async def close(self) -> None:
        """Finish the writes that were asked for and let the ledger go."""
        await self._db.close()
