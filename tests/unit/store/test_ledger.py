"""The ledger keeps what it was given, exactly, and refuses a ledger that is not this node's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.fakes.records import ALICE, BOB, IDENTITY, channel

from viz.domain.ports.ledger import TrainingRecord
from viz.errors import BooksMismatch, StoreError
from viz.store.database import Database
from viz.store.ledger import SqlStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await SqlStore.open(tmp_path / "ledger.db", IDENTITY)
    yield opened
    await opened.close()


async def test_amounts_above_64_bits_survive_a_restart(tmp_path: Path) -> None:
    """Money keeps its last unit up to 2^96 - 1."""
    first = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    saved = await first.commit("voucher", channel())
    await first.close()
    second = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    assert await second.channel(ALICE) == saved == replace(channel(), version=1)
    assert list(await second.channels()) == [saved]
    assert await second.channel(BOB) is None
    await second.close()


async def test_a_group_of_writes_shares_a_commit(tmp_path: Path) -> None:
    """Group commit: what waits while the disk works becomes durable at once."""
    gate, held = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    database = await Database.open(tmp_path / "l.db", IDENTITY)

    def hold(connection: Connection) -> None:
        loop.call_soon_threadsafe(held.set)
        gate.wait(10)

    writes = [asyncio.create_task(database.write("hold", hold))]
    await held.wait()
    writes += [asyncio.create_task(database.write("x", lambda c: None)) for _ in range(100)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*writes)
    assert database.writer.writes == 101 and database.writer.commits == 2
    await database.close()


async def test_books_of_another_chain_are_refused(tmp_path: Path) -> None:
    """A ledger never serves a chain whose money it does not hold."""
    place = tmp_path / "l.db"
    await (await SqlStore.open(place, IDENTITY)).close()
    with pytest.raises(BooksMismatch, match="chain_id 31337"):
        await SqlStore.open(place, {**IDENTITY, "chain_id": "1"})
    await (await SqlStore.open(place, IDENTITY)).close()


async def test_another_schema_is_refused_and_kept(tmp_path: Path) -> None:
    """A ledger of another version is left intact, and the message says what to do."""
    place = tmp_path / "l.db"
    await (await SqlStore.open(place, IDENTITY)).close()
    raw = sqlite3.connect(place)
    raw.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    raw.commit()
    raw.close()
    before = place.read_bytes()
    with pytest.raises(StoreError, match="schema 99"):
        await SqlStore.open(place, IDENTITY)
    assert place.read_bytes() == before


async def test_a_ledger_from_before_a_table_was_added_is_taken_over(tmp_path: Path) -> None:
    """Protects operators: a table that a newer version added is no reason to refuse the ledger."""
    path = tmp_path / "ledger.db"
    store = await SqlStore.open(path, IDENTITY)
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE adapter_works")
    connection.close()
    again = await SqlStore.open(path, IDENTITY)
    assert list(await again.adapters()) == []
    await again.close()


async def test_a_corrupt_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """A file that is no ledger is named, not overwritten."""
    place = tmp_path / "l.db"
    place.write_bytes(b"not a database, but long enough to be mistaken for one" * 100)
    with pytest.raises(StoreError, match="restore the latest backup"):
        await SqlStore.open(place, IDENTITY)
    assert place.read_bytes().startswith(b"not a database")


async def test_two_processes_cannot_share_a_ledger(tmp_path: Path) -> None:
    """A second daemon on the same ledger is told to stop the first."""
    first = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    with pytest.raises(StoreError, match="another process"):
        await SqlStore.open(tmp_path / "l.db", IDENTITY)
    await first.close()
    with pytest.raises(StoreError, match="closed"):
        await first.put_training(TrainingRecord("t", "queued", {}))


async def test_commits_are_flushed(store: SqlStore) -> None:
    """Every commit reaches the disk: WAL with synchronous FULL."""
    level = await store._db.read(lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar())
    mode = await store._db.read(lambda c: c.exec_driver_sql("PRAGMA journal_mode").scalar())
    assert (level, mode) == (2, "wal")


async def test_what_was_replaced_leaves_no_trace_on_the_disk(tmp_path: Path) -> None:
    """Words of a withdrawn work stood in a run's result: no file of the ledger has them after."""
    words = "the oil of the lamp of Varn Point " * 400  # longer than a page
    store = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    for number in range(3):
        run = TrainingRecord(f"t{number}", "done", {}, result={"examples": words}, updated_at=1)
        await store.put_training(run)
    assert any(b"Varn Point" in path.read_bytes() for path in tmp_path.iterdir())
    for number in range(3):
        await store.put_training(TrainingRecord(f"t{number}", "done", {}, updated_at=2))
    await store.leave_no_trace()
    assert not any(b"Varn Point" in path.read_bytes() for path in tmp_path.iterdir())
    await store.close()
