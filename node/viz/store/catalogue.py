"""Store the served adapters and the training runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select

from viz.domain.card import ReportCard
from viz.domain.ports.ledger import AdapterRecord, EndedAdapter, OfferedWork, TrainingRecord
from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId, Cid, ContentId
from viz.store.database import Database, write_row
from viz.store.tables import (
    AdapterCardTable,
    AdapterEndTable,
    AdapterSuccessorTable,
    AdapterTable,
    AdapterWorkTable,
    TrainingTable,
    table,
)

_ADAPTERS: Final = table(AdapterTable)
_WORKS: Final = table(AdapterWorkTable)
_CARDS: Final = table(AdapterCardTable)
_TRAININGS: Final = table(TrainingTable)
_ENDS: Final = table(AdapterEndTable)
_SUCCESSORS: Final = table(AdapterSuccessorTable)
_JSON: Final = ("request", "progress", "result")


class CatalogueTables:
    """Implements AdapterCatalogue and TrainingLedger on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put_adapter(self, adapter: AdapterRecord) -> None:
        row = asdict(adapter)
        del row["works"], row["card"]
        key = adapter.adapter_id
        works = [{"adapter_id": key, **asdict(work)} for work in adapter.works]

        def work(connection: Connection) -> None:
            write_row(connection, _ADAPTERS, row)
            connection.execute(delete(_WORKS).where(_WORKS.c.adapter_id == key))
            if works:
                connection.execute(insert(_WORKS), works)
            connection.execute(delete(_CARDS).where(_CARDS.c.adapter_id == key))
            if adapter.card is not None:
                card = {"adapter_id": key, "card": json.dumps(asdict(adapter.card))}
                connection.execute(insert(_CARDS), [card])

        await self._db.write("put-adapter", work)

    async def drop_adapter(self, adapter_id: AdapterId) -> None:
        gone = delete(_ADAPTERS).where(_ADAPTERS.c.adapter_id == adapter_id)

        def work(connection: Connection) -> None:
            connection.execute(gone)
            for named in (_WORKS, _CARDS):
                connection.execute(delete(named).where(named.c.adapter_id == adapter_id))

        await self._db.write("drop-adapter", work)

    async def adapters(self) -> Sequence[AdapterRecord]:
        wanted = select(_ADAPTERS).order_by(_ADAPTERS.c.adapter_id)
        named = select(_WORKS).order_by(_WORKS.c.adapter_id, _WORKS.c.content_id)

        def work(connection: Connection) -> list[Sequence[Row[Any]]]:
            return [connection.execute(each).all() for each in (wanted, named, select(_CARDS))]

        rows, names, found = await self._db.read(work)
        cards = {row.adapter_id: ReportCard(**json.loads(row.card)) for row in found}
        works: dict[int, list[OfferedWork]] = {}
        for name in names:
            works.setdefault(name.adapter_id, []).append(
                OfferedWork(ContentId(name.content_id), name.title)
            )
        return [
            AdapterRecord(
                **row._mapping,
                works=tuple(works.get(row.adapter_id, ())),
                card=cards.get(row.adapter_id),
            )
            for row in rows
        ]

    async def put_end(self, ended: EndedAdapter) -> None:
        row = {
            "adapter_id": ended.adapter_id,
            "weights_digest": ended.weights_digest,
            "cid": ended.cid,
            **asdict(ended.end),
        }
        await self._db.write("put-end", lambda c: write_row(c, _ENDS, row))

    async def ended(self) -> Sequence[EndedAdapter]:
        wanted = select(_ENDS).order_by(_ENDS.c.adapter_id)
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [
            EndedAdapter(
                AdapterId(row.adapter_id),
                AdapterEnd(ContentId(row.content_id), row.reason, row.since_s, row.ended_s),
                row.weights_digest,
                Cid(row.cid),
            )
            for row in rows
        ]

    async def put_successor(self, adapter_id: AdapterId, successor_id: AdapterId) -> None:
        row = {"adapter_id": adapter_id, "successor_id": successor_id}
        await self._db.write("put-successor", lambda c: write_row(c, _SUCCESSORS, row))

    async def successors(self) -> Mapping[AdapterId, AdapterId]:
        rows = await self._db.read(lambda c: c.execute(select(_SUCCESSORS)).all())
        return {AdapterId(row.adapter_id): AdapterId(row.successor_id) for row in rows}

    async def leave_no_trace(self) -> None:
        await self._db.forget_changed()

    async def put_training(self, training: TrainingRecord) -> None:
        row = asdict(training)
        row |= {name: json.dumps(row[name]) for name in _JSON}
        await self._db.write("put-training", lambda c: write_row(c, _TRAININGS, row))

    async def training(self, training_id: str) -> TrainingRecord | None:
        wanted = select(_TRAININGS).where(_TRAININGS.c.training_id == training_id)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        return None if row is None else _training(row)

    async def trainings(self) -> Sequence[TrainingRecord]:
        wanted = select(_TRAININGS).order_by(_TRAININGS.c.created_at, _TRAININGS.c.training_id)
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [_training(row) for row in rows]


def _training(row: Row[Any]) -> TrainingRecord:
    values = dict(row._mapping)
    return TrainingRecord(**{**values, **{name: json.loads(values[name]) for name in _JSON}})
