"""Store channels, receipts and answers: the hot path of every paid request.

Writes only the lines that changed, and each change in one transaction. The
channel model (``viz.domain.node_channel``) has checked the values before. Invariant: a channel's
row is replaced only by a writer that read its present version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, tuple_, update

from viz.domain.ports.ledger import (
    AnswerRecord,
    ChannelLineRecord,
    ChannelRecord,
    ReceiptRecord,
    UnbilledRecord,
)
from viz.domain.units import ZERO_HASH, AdapterId, Address, Hash32
from viz.errors import StoreConflict
from viz.store.database import BATCH_ROWS, Database, in_batches, write_row
from viz.store.prepared import Prepared
from viz.store.tables import (
    AnswerTable,
    ChannelLineTable,
    ChannelTable,
    ReceiptTable,
    UnbilledTable,
    table,
)

_CHANNELS: Final = table(ChannelTable)
_LINES: Final = table(ChannelLineTable)
_RECEIPTS: Final = table(ReceiptTable)
_ANSWERS: Final = table(AnswerTable)
_UNBILLED: Final = table(UnbilledTable)
_RECEIPT_FIELDS: Final = tuple(_RECEIPTS.c.keys())
_UNBILLED_FIELDS: Final = tuple(each.name for each in fields(UnbilledRecord))

HEADS_LIMIT: Final = 4096
RECEIPTS_LIMIT: Final = 256

_SAVED: Final = tuple(
    column.name for column in _CHANNELS.columns if column.name not in ("signer", "version")
)
_AMOUNTS: Final = ("base_units", "accepted_units", "spent_units")
# The writes of every paid request, prepared.
_UPDATE_CHANNEL: Final = Prepared(
    update(_CHANNELS)
    .where(_CHANNELS.c.signer == bindparam("of"), _CHANNELS.c.version == bindparam("was"))
    .values({name: bindparam(name) for name in (*_SAVED, "version")})
)
_UPDATE_LINE: Final = Prepared(
    update(_LINES)
    .where(_LINES.c.signer == bindparam("of"), _LINES.c.adapter_id == bindparam("for"))
    .values({name: bindparam(name) for name in _AMOUNTS})
)
_INSERT_RECEIPT: Final = Prepared(insert(_RECEIPTS).inline(), _RECEIPT_FIELDS)
_DELETE_UNBILLED: Final = Prepared(
    delete(_UNBILLED).where(_UNBILLED.c.request_id == bindparam("billed"))
)
_UPDATE_UNBILLED: Final = Prepared(
    update(_UNBILLED)
    .where(_UNBILLED.c.request_id == bindparam("of"))
    .values({name: bindparam(name) for name in _UNBILLED_FIELDS if name != "request_id"})
)


class ChannelTables:
    """Implements ChannelLedger on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def channel(self, signer: Address) -> ChannelRecord | None:
        # Through the writer, so that the read sees every write that was requested before it.
        return await self._db.write("read-channel", lambda connection: load(connection, signer))

    async def channels(self) -> Sequence[ChannelRecord]:
        return await self._db.read(load_all)

    async def commit(
        self,
        point: str,
        channel: ChannelRecord,
        *,
        touched: Collection[AdapterId] | None = None,
        receipt: ReceiptRecord | None = None,
        answer: AnswerRecord | None = None,
        unbilled: Sequence[UnbilledRecord] = (),
        billed: bytes | None = None,
    ) -> ChannelRecord:
        def work(connection: Connection) -> ChannelRecord:
            saved = save(connection, channel, touched)
            if receipt is not None:
                _INSERT_RECEIPT.run(connection, _fields(receipt, _RECEIPT_FIELDS))
            if answer is not None:
                write_row(connection, _ANSWERS, _fields(answer, _ANSWERS.c.keys()))
            for each in unbilled:
                _write_unbilled(connection, each)
            if billed is not None:
                _DELETE_UNBILLED.run(connection, {"billed": billed})
            return saved

        # An answer that is kept for its idempotency key may be long, and so may many records.
        return await self._db.write(point, work, short=answer is None and len(unbilled) <= 1)

    async def receipt_seq(self, signer: Address, head: Hash32) -> int | None:
        if head == ZERO_HASH:
            return 0
        wanted = select(_RECEIPTS.c.seq).where(
            _RECEIPTS.c.signer == signer, _RECEIPTS.c.head == head
        )
        found: int | None = await self._db.read(lambda c: c.execute(wanted).scalar())
        return found

    async def heads(self, signer: Address, after: int) -> Sequence[Hash32]:
        wanted = (
            select(_RECEIPTS.c.head)
            .where(_RECEIPTS.c.signer == signer, _RECEIPTS.c.seq > after)
            .order_by(_RECEIPTS.c.seq.desc())
            .limit(HEADS_LIMIT)
        )
        found = await self._db.read(lambda c: c.execute(wanted).scalars().all())
        return [Hash32(head) for head in reversed(found)]

    async def receipts(
        self, signer: Address, *, after: int = 0, limit: int = RECEIPTS_LIMIT
    ) -> Sequence[ReceiptRecord]:
        wanted = (
            select(_RECEIPTS)
            .where(_RECEIPTS.c.signer == signer, _RECEIPTS.c.seq > after)
            .order_by(_RECEIPTS.c.seq)
            .limit(limit)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [ReceiptRecord(**row._mapping) for row in rows]

    async def unbilled(self) -> Sequence[UnbilledRecord]:
        wanted = select(*(_UNBILLED.c[name] for name in _UNBILLED_FIELDS))
        rows = await self._db.read(lambda c: c.execute(wanted.order_by(_UNBILLED.c.number)).all())
        return [UnbilledRecord(**row._mapping) for row in rows]

    async def answer(self, scope: bytes, key: str) -> AnswerRecord | None:
        wanted = select(_ANSWERS).where(_ANSWERS.c.scope == scope, _ANSWERS.c.key == key)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        return None if row is None else AnswerRecord(**row._mapping)

    async def forget_answers(self, before: int) -> int:
        old = (_ANSWERS.c.created_at < before) & _ANSWERS.c.body.is_not(None)
        some = select(_ANSWERS.c.scope, _ANSWERS.c.key).where(old).limit(BATCH_ROWS)
        named = tuple_(_ANSWERS.c.scope, _ANSWERS.c.key).in_(some)
        return await in_batches(
            self._db, "forget-answers", update(_ANSWERS).where(named).values(body=None)
        )


def load(connection: Connection, signer: Address) -> ChannelRecord | None:
    """Return the channel of ``signer`` with its lines."""
    row = connection.execute(select(_CHANNELS).where(_CHANNELS.c.signer == signer)).first()
    if row is None:
        return None
    lines = connection.execute(select(_LINES).where(_LINES.c.signer == signer)).all()
    return _channel(row, lines)


def load_all(connection: Connection) -> list[ChannelRecord]:
    """Return every channel, by signer."""
    lines: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for line in connection.execute(select(_LINES)):
        lines[line.signer].append(line)
    rows = connection.execute(select(_CHANNELS).order_by(_CHANNELS.c.signer)).all()
    return [_channel(row, lines[row.signer]) for row in rows]


def save(
    connection: Connection, channel: ChannelRecord, touched: Collection[AdapterId] | None = None
) -> ChannelRecord:
    """Replace the version of a channel that was read, and return it with the next version.

    ``touched`` names the lines that changed; None means all. Raises StoreConflict if another
    writer replaced that version first.
    """
    saved = replace(channel, version=channel.version + 1)
    row = _fields(saved, (*_SAVED, "version"))
    if channel.version == 0:
        if load(connection, channel.signer) is not None:
            raise StoreConflict("the channel was stored by another request: read it again")
        connection.execute(insert(_CHANNELS), {"signer": channel.signer, **row})
    else:
        where = {"of": channel.signer, "was": channel.version}
        if _UPDATE_CHANNEL.run(connection, where | row) != 1:
            raise StoreConflict("the channel was changed by another request: read it again")
    for adapter_id, line in channel.lines.items():
        if touched is not None and adapter_id not in touched:
            continue
        values = _fields(line, _AMOUNTS)
        if _UPDATE_LINE.run(connection, {"of": channel.signer, "for": adapter_id} | values) == 0:
            row = {"signer": channel.signer, "adapter_id": adapter_id, **values}
            connection.execute(insert(_LINES), row)
    return saved


def _write_unbilled(connection: Connection, record: UnbilledRecord) -> None:
    row = _fields(record, _UNBILLED_FIELDS)
    if _UPDATE_UNBILLED.run(connection, {"of": record.request_id, **row}) == 0:
        connection.execute(insert(_UNBILLED), row)


def _fields(record: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _channel(row: Row[Any], lines: Sequence[Row[Any]]) -> ChannelRecord:
    by_adapter = {
        AdapterId(line.adapter_id): ChannelLineRecord(
            line.base_units, line.accepted_units, line.spent_units
        )
        for line in lines
    }
    return ChannelRecord(**row._mapping, lines=by_adapter)
