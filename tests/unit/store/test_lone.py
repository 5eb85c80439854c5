"""The commit of a request that is alone, in the event loop's own thread."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.fakes.records import ALICE, IDENTITY, channel, digest

from viz.domain.ports.ledger import AnswerRecord, ChannelRecord
from viz.errors import StoreConflict, StoreError
from viz.store import lone
from viz.store.ledger import SqlStore
from viz.store.lone import FAST_S, SLOW_S, LoneWrites
from viz.store.writer import LOCK_WAIT_MS, LedgerWrite


class Ledger:
    """A store, and in whose thread each of its commit points was."""

    def __init__(self) -> None:
        self.lone: list[tuple[str, bool]] = []

    def hook(self, point: str) -> None:
        here = threading.current_thread() is threading.main_thread()
        self.lone.append((point, here))

    async def opened(self, folder: Path) -> SqlStore:
        self.store = await SqlStore.open(folder / "l.db", IDENTITY, self.hook)
        self.saved = await self.store.commit("voucher", channel())
        self.lone.clear()
        return self.store

    async def move(self) -> ChannelRecord:
        """Commit the next version of the channel."""
        moved = replace(self.saved, total_units=self.saved.total_units + 1)
        self.saved = await self.store.commit("voucher", moved)
        return self.saved


@pytest.fixture
async def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """A ledger that trusts its disk: how fast this machine's is decides nothing."""
    monkeypatch.setattr(lone, "FAST_COMMITS", 0)
    ledger = Ledger()
    store = await ledger.opened(tmp_path)
    yield ledger
    await store.close()


async def test_a_lone_request_is_committed_where_it_is_asked_for(ledger: Ledger) -> None:
    """And it is on disk when it is answered: a second connection reads it."""
    with ledger.store.answering():
        moved = await ledger.move()
    assert ledger.lone == [("voucher:before", True), ("voucher:after", True)]
    other = sqlite3.connect(ledger.store._db._place or "")
    assert other.execute("SELECT version FROM channels").fetchone() == (moved.version,)
    other.close()
    assert await ledger.store.channel(ALICE) == moved


@pytest.mark.parametrize("requests", [0, 2])
async def test_the_loop_stands_still_for_nobody_else(ledger: Ledger, requests: int) -> None:
    """With another request under way, or without any, the other thread commits."""
    answering = [ledger.store.answering() for _ in range(requests)]
    for each in answering:
        each.__enter__()
    await ledger.move()
    for each in answering:
        each.__exit__(None, None, None)
    assert ledger.lone == [("voucher:before", False), ("voucher:after", False)]
    with ledger.store.answering():
        await ledger.move()
    assert ledger.lone[2:] == [("voucher:before", True), ("voucher:after", True)]


async def test_what_may_be_long_is_written_by_the_thread(ledger: Ledger) -> None:
    answer = AnswerRecord(b"scope", "key", digest(1), digest(2), 200, "text/plain", b"x", 1)
    with ledger.store.answering():
        await ledger.store.commit("receipt", ledger.saved, answer=answer)
        await ledger.store.channel(ALICE)
    assert {here for _, here in ledger.lone} == {False}


async def test_a_lone_write_does_not_overtake_an_earlier_one(ledger: Ledger) -> None:
    """What the thread was given and has not taken up yet comes first."""
    writer, order = ledger.store._db.writer, []
    jobs, given = writer._jobs, SimpleQueue[Any]()

    def note(name: str) -> LedgerWrite[None]:
        return lambda _: order.append(name)

    with ledger.store.answering():
        writer._jobs = given  # the thread waits at the other queue
        writes = [
            asyncio.create_task(writer.write("first", note("first"))),
            asyncio.create_task(writer.write("second", note("second"), short=True)),
        ]
        await asyncio.sleep(0)
        assert given.qsize() == 2 and order == []
        writer._jobs = jobs
        for _ in writes:
            jobs.put(given.get())
        await asyncio.gather(*writes)
    assert order == ["first", "second"]
    assert {here for _, here in ledger.lone} == {False}


async def test_the_loop_does_not_wait_for_another_programs_lock(ledger: Ledger) -> None:
    """The thread waits for it; the loop goes on, and here it is the loop that ends the lock."""

    async def waits_ms(*, short: bool) -> object:
        asked = "PRAGMA busy_timeout"
        return await ledger.store._db.write(
            "ask", lambda c: c.exec_driver_sql(asked).scalar(), short=short
        )

    other = sqlite3.connect(ledger.store._db._place or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ledger.store.answering():
        assert await waits_ms(short=True) == 0
        assert await waits_ms(short=False) == LOCK_WAIT_MS
        ledger.lone.clear()
        moving = asyncio.create_task(ledger.move())
        await asyncio.sleep(0.05)
        assert not moving.done()
        other.execute("ROLLBACK")
        moved = await moving
    other.close()
    assert ledger.lone == [("voucher:before", False), ("voucher:after", False)]
    assert await ledger.store.channel(ALICE) == moved


async def test_work_that_raises_changes_nothing_and_is_not_repeated(ledger: Ledger) -> None:
    runs: list[int] = []

    def work(connection: Connection) -> None:
        runs.append(1)
        connection.exec_driver_sql("DELETE FROM channels")
        raise StoreConflict("changed")

    with ledger.store.answering():
        with pytest.raises(StoreConflict):
            await ledger.store._db.write("odd", work, short=True)
        assert len(runs) == 1
        moved = await ledger.move()
    assert ledger.lone == [("voucher:before", True), ("voucher:after", True)]
    assert await ledger.store.channel(ALICE) == moved


async def test_a_statement_that_the_database_refuses_is_tried_once_more(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread, on a new connection, as after every refusal; the thread then goes on."""
    monkeypatch.setattr(lone, "FAST_COMMITS", 2)
    monkeypatch.setattr(lone, "SLOW_S", math.inf)
    ledger.store._db.writer.lone._fast = 2
    await ledger.store._db.write("bar", lambda c: c.exec_driver_sql("PRAGMA query_only = ON"))
    with ledger.store.answering():
        moved = await ledger.move()
        assert not ledger.store._db.writer.lone.allowed
    assert ("voucher:after", False) in ledger.lone
    assert await ledger.store.channel(ALICE) == moved


async def test_a_commit_that_the_database_refuses_is_told_and_not_repeated(ledger: Ledger) -> None:
    """Nobody knows whether it happened, so the caller decides by what the ledger holds."""
    runs: list[int] = []

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE one (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE two (id INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED)"
        )

    def orphan(connection: Connection) -> None:
        runs.append(1)
        connection.exec_driver_sql("INSERT INTO two VALUES (7)")

    await ledger.store._db.write("begin", begin)
    with ledger.store.answering():
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            await ledger.store._db.write("orphan", orphan, short=True)
        assert runs == [1]
        found = await ledger.store._db.read(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM two").scalar()
        )
        assert found == 0
        moved = await ledger.move()
    assert await ledger.store.channel(ALICE) == moved


def test_one_slow_commit_gives_the_work_back_to_the_thread() -> None:
    """And so does a refused one; only a run of fast ones brings it back."""
    writes = LoneWrites()

    def earn(short: bool = True) -> None:
        for _ in range(lone.FAST_COMMITS):
            writes.took(FAST_S / 2, short=short)

    with writes:
        assert not writes.allowed, "at the start nothing is known of the disk"
        earn(short=False)
        assert not writes.allowed, "what flushes nothing says nothing of the disk"
        earn()
        assert writes.allowed
        writes.took(SLOW_S / 2, short=True)
        assert writes.allowed
        for stop in (lambda: writes.took(SLOW_S, short=False), writes.failed):
            stop()
            assert not writes.allowed
            earn()
            assert writes.allowed
        with writes:
            assert not writes.allowed
        assert writes.allowed
    assert not writes.allowed
