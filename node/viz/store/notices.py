"""Store the notices of third parties, and the operator's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from viz.domain.notices import NoticeRecord, NoticeState
from viz.domain.typed_data import Notice
from viz.store.database import Database
from viz.store.tables import NoticeTable, table

_NOTICES: Final = table(NoticeTable)
_SIGNED: Final = tuple(each.name for each in fields(Notice))


class NoticeTables:
    """Implements NoticeLedger on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add_notice(self, record: NoticeRecord) -> NoticeRecord:
        row = asdict(record)
        row |= row.pop("notice")
        del row["notice_id"]

        def write(connection: Connection) -> NoticeRecord:
            done = connection.execute(insert(_NOTICES), row)
            assert done.inserted_primary_key is not None
            return replace(record, notice_id=int(done.inserted_primary_key[0]))

        return await self._db.write("add-notice", write)

    async def answer_notice(
        self, notice_id: int, state: NoticeState, *, reason: str, answered_at: int
    ) -> None:
        answer = (
            update(_NOTICES)
            .where(_NOTICES.c.notice_id == notice_id)
            .values(state=state, reason=reason, answered_at=answered_at)
        )
        await self._db.write("answer-notice", lambda c: c.execute(answer))

    async def drop_notice(self, notice_id: int) -> None:
        gone = delete(_NOTICES).where(_NOTICES.c.notice_id == notice_id)
        await self._db.write("drop-notice", lambda c: c.execute(gone))

    async def notices(self) -> Sequence[NoticeRecord]:
        rows = await self._db.read(
            lambda c: c.execute(select(_NOTICES).order_by(_NOTICES.c.notice_id)).all()
        )
        return [_record(dict(row._mapping)) for row in rows]


def _record(row: dict[str, Any]) -> NoticeRecord:
    return NoticeRecord(notice=Notice(**{name: row.pop(name) for name in _SIGNED}), **row)
