"""Store the records of sealed works in custody, and the log of keys handed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from viz.domain.ports.custody import CustodyRecord, HandedKey, KeyKind
from viz.domain.units import Address, Cid, ContentId
from viz.errors import CustodyFull, TooManyQuestions
from viz.store.database import Database, write_row
from viz.store.tables import CustodyTable, HandedKeyTable, table

_WORKS: Final = table(CustodyTable)
_HANDED: Final = table(HandedKeyTable)


class CustodyTables:
    """Implements CustodyLedger on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put_custody(
        self, work: CustodyRecord, *, most_each_bytes: int, most_bytes: int
    ) -> CustodyRecord | None:
        def write(connection: Connection) -> CustodyRecord | None:
            wanted = select(_WORKS).where(_WORKS.c.content_id == work.content_id)
            row = connection.execute(wanted).first()
            earlier = None if row is None else CustodyRecord(**row._mapping)
            each, every = _held(connection, work.owner, but=work.content_id)
            require_custody_room(
                work.size_bytes, each, every, most_each=most_each_bytes, most=most_bytes
            )
            write_row(connection, _WORKS, asdict(work))
            return earlier

        return await self._db.write("put-custody", write)

    async def custody(self, content_id: ContentId) -> CustodyRecord | None:
        wanted = select(_WORKS).where(_WORKS.c.content_id == content_id)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        return None if row is None else CustodyRecord(**row._mapping)

    async def works_under(self, cid: Cid) -> Sequence[ContentId]:
        wanted = select(_WORKS.c.content_id).where(_WORKS.c.cid == cid).order_by("content_id")
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [ContentId(row.content_id) for row in rows]

    async def drop_custody(self, content_id: ContentId) -> None:
        gone = delete(_WORKS).where(_WORKS.c.content_id == content_id)
        await self._db.write("drop-custody", lambda c: c.execute(gone))

    async def held_bytes(self, owner: Address) -> tuple[int, int]:
        return await self._db.read(lambda c: _held(c, owner))

    async def log_key(self, handed: HandedKey, *, most: int, since: int) -> None:
        row = asdict(handed)
        del row["seq"]
        of_requester = (
            select(func.count())
            .select_from(_HANDED)
            .where(
                _HANDED.c.kind == int(handed.kind),
                _HANDED.c.item_id == handed.item_id,
                _HANDED.c.requester == handed.requester,
                _HANDED.c.handed_at > since,
            )
        )

        def write(connection: Connection) -> None:
            require_key_room(connection.execute(of_requester).scalar_one(), most)
            connection.execute(insert(_HANDED), {**row, "kind": int(handed.kind)})

        await self._db.write("log-key", write)

    async def handed_keys(
        self, kind: KeyKind, item_id: int, *, after: int, limit: int
    ) -> Sequence[HandedKey]:
        wanted = (
            select(_HANDED)
            .where(_HANDED.c.kind == int(kind), _HANDED.c.item_id == item_id, _HANDED.c.seq > after)
            .order_by(_HANDED.c.seq)
            .limit(limit)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [HandedKey(**{**row._mapping, "kind": KeyKind(row.kind)}) for row in rows]


def require_custody_room(size: int, each: int, every: int, *, most_each: int, most: int) -> None:
    """Raise CustodyFull if ``size`` more bytes exceed the owner's quota or the node's."""
    if each + size > most_each:
        raise CustodyFull(
            f"your works in custody here would have {each + size} bytes, and the quota of one "
            f"owner is {most_each}: use another custodian"
        )
    if every + size > most:
        raise CustodyFull(
            f"this node has {every} bytes in custody, and its quota is {most}: use another "
            "custodian"
        )


def require_key_room(handed: int, most: int) -> None:
    """Raise TooManyQuestions if the key was handed out ``most`` times within the hour."""
    if handed >= most:
        raise TooManyQuestions(
            f"this key was handed to you {handed} times within the last hour: use the one you "
            "have, or try again later",
            retryAfter=3_600,
        )


def _held(
    connection: Connection, owner: Address, *, but: ContentId | None = None
) -> tuple[int, int]:
    total = select(func.coalesce(func.sum(_WORKS.c.size_bytes), 0))
    if but is not None:
        total = total.where(_WORKS.c.content_id != but)
    each = connection.execute(total.where(_WORKS.c.owner == owner)).scalar_one()
    return int(each), int(connection.execute(total).scalar_one())
