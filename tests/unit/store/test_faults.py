"""A ledger whose disk or file fails: what is told, and that it goes on when it can."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection, event
from tests.fakes.records import ALICE, IDENTITY, channel

from viz.domain.ports.ledger import TrainingRecord
from viz.errors import (
    LedgerMissing,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from viz.store import faults
from viz.store.database import Database
from viz.store.ledger import SqlStore

ROOM = 3 << 20


def _big(number: int) -> TrainingRecord:
    return TrainingRecord(f"{number:016x}", "done", {}, result={"channel": "x" * 100_000})


@contextmanager
def _no_more_pages(store: SqlStore) -> Iterator[None]:
    """Let the file not grow on any connection that is made meanwhile: SQLite says it is full."""
    bounded = True

    @event.listens_for(store._db._engine, "connect")
    def bound(connection: Any, _record: Any) -> None:
        if bounded:
            connection.execute("PRAGMA max_page_count = 1")  # takes the present size for the least

    store._db.writer._disconnect()
    yield
    bounded = False


def _no_loss_words(error: StoreError) -> None:
    """No advice may lose what is not claimed yet."""
    text = str(error).lower()
    assert not any(word in text for word in ("delete", "remove", "move it", "away", "start anew"))


async def test_a_full_ledger_says_so_in_the_databases_words_and_goes_on(tmp_path: Path) -> None:
    """What was acknowledged stays, the write that did not fit is refused, and room heals it."""
    store = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    saved = await store.commit("voucher", channel())
    with structlog.testing.capture_logs() as logs:
        with _no_more_pages(store):
            for number in range(3):
                with pytest.raises(
                    StoreFull, match=r"full \(database or disk is full\): free"
                ) as e:
                    await store.put_training(_big(number))
                _no_loss_words(e.value)
        await store.put_training(_big(9))
    assert await store.channel(ALICE) == saved
    told = [entry for entry in logs if "ledger" in entry["event"]]
    refusals = [entry for entry in told if entry["event"] == "the ledger refuses writes"]
    assert len(refusals) == 1 and "database or disk is full" in refusals[0]["reason"]
    assert told[-1]["event"] == "the ledger writes again" and told[-1]["refused_writes"] == 3
    assert [each.training_id for each in await store.trainings()] == [f"{9:016x}"]
    await store.close()


async def test_one_write_that_does_not_fit_spares_its_neighbours(tmp_path: Path) -> None:
    """Of a group commit, only what has no room is refused."""
    store = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    saved = await store.commit("voucher", channel())
    gate, held = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: Connection) -> None:
        loop.call_soon_threadsafe(held.set)
        gate.wait(10)

    with _no_more_pages(store):
        first = asyncio.create_task(store._db.write("hold", hold))
        await held.wait()
        moved = replace(saved, total_units=5)
        writes = [store.put_training(_big(1)), store.commit("voucher", moved)]
        both = asyncio.gather(*writes, return_exceptions=True)
        await asyncio.sleep(0)
        gate.set()
        refused, kept = await both
        await first
    assert isinstance(refused, StoreFull)
    assert await store.channel(ALICE) == kept == replace(moved, version=2)
    await store.close()


FILLER = """
import asyncio, resource, sys
from pathlib import Path
from tests.fakes.records import IDENTITY, channel
from tests.unit.store.test_faults import _big
from viz.errors import StoreError, StoreFull
from viz.store.ledger import SqlStore

async def main():
    store = await SqlStore.open(Path(sys.argv[1]), IDENTITY)
    await store.commit("voucher", channel())
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    try:
        for number in range(100):
            await store.put_training(_big(number))
    except StoreFull as error:
        print("full", number > 3, error.detail)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.put_training(_big(number))
    print("again", len(await store.trainings()) == number + 1)
    await store.close()

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """A quota or a limit is refused with other words by the system: its remedy is the same."""
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path / "l.db")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    lines = done.stdout.splitlines()
    lines = [line for line in lines if line.startswith(("full", "again"))]
    assert lines[0].startswith("full True the disk that holds the ledger is full"), done.stderr
    assert lines[1] == "again True"


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False
        )
        if done.returncode == 0:
            subprocess.run(["umount", place], check=True)
        return done.returncode == 0


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A real filesystem of a few MiB where the system lets us mount one."""
    with tempfile.TemporaryDirectory() as place:
        options = ["-o", f"size={ROOM}"]
        subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def _fill(file: Path) -> None:
    """Take all the room of the file's disk."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(handle, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(handle)


async def _on_a_small_disk(small_disk: Path) -> None:
    place = small_disk / "node" / "l.db"
    store = await SqlStore.open(place, IDENTITY)
    saved = await store.commit("voucher", channel())
    with suppress(StoreFull):
        store.require_room()
    ballast = small_disk / "ballast"
    _fill(ballast)
    with pytest.raises(StoreFull):
        store.require_room()
    with pytest.raises(StoreFull, match="is full") as refused:
        for number in range(40):
            await store.put_training(_big(number))
    _no_loss_words(refused.value)
    assert await store.channel(ALICE) == saved
    await store.close()
    # A start on the full disk says that the disk is full, whatever SQLite stumbles over first.
    _fill(ballast)
    with structlog.testing.capture_logs() as logs, pytest.raises(StoreFull) as start:
        reopened = await SqlStore.open(place, IDENTITY)
        try:
            assert "no new work is accepted" in logs[-1]["reason"]
            await reopened.put_training(_big(0))
        finally:
            await reopened.close()
    _no_loss_words(start.value)
    assert "start one that has ended again" in start.value.detail
    ballast.unlink()
    again = await SqlStore.open(place, IDENTITY)
    assert await again.channel(ALICE) == saved
    await again.put_training(_big(1))
    await again.close()


def test_a_full_disk_says_what_a_node_needs_that_could_not_start() -> None:
    """The process is gone, so the ledger of such a node does not continue by itself."""
    told = faults.os_fault(OSError(errno.ENOSPC, "No space left on device")).detail
    assert "free space on it" in told and "start one that has ended again" in told


if _can_mount():

    async def test_a_real_disk_fills_and_is_emptied_again(small_disk: Path) -> None:
        """Nothing acknowledged is lost, a start names the disk, and room is all that it takes."""
        await _on_a_small_disk(small_disk)


async def test_nothing_new_is_begun_on_the_last_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way must still fit: its vouchers, receipts and claims are money."""
    store = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    store.require_room()
    left = SimpleNamespace(f_bavail=faults.LEAST_ROOM_BYTES // 4096 - 1, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: left)
    store._db.room._read_at = float("-inf")
    with pytest.raises(StoreFull, match="below 4 MiB no new work is accepted"):
        store.require_room()
    await store.commit("voucher", channel())  # what was begun goes on
    await store.close()


async def test_a_ledger_that_another_program_holds_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    await store._db.write("quick", lambda c: c.exec_driver_sql("PRAGMA busy_timeout = 1"))
    other = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match=r"locked\): close that program"):
        await store.commit("voucher", channel())
    other.execute("ROLLBACK")
    other.close()
    await store.commit("voucher", channel())
    await store.close()


async def test_a_ledger_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    store = await SqlStore.open(tmp_path / "l.db", IDENTITY)
    await store._db.write("bar", lambda c: c.exec_driver_sql("PRAGMA query_only = ON"))
    with pytest.raises(StoreReadOnly, match=r"readonly database\): make its folder"):
        await store.commit("voucher", channel())
    await store.commit("voucher", channel())
    await store.close()


@pytest.mark.parametrize(
    "content", [b"no database at all" * 400, b"SQLite format 3\0" + b"\xff" * 8000]
)
async def test_a_damaged_ledger_is_to_be_kept(tmp_path: Path, content: bytes) -> None:
    """Unclaimed vouchers may be read out of it by hand: no advice may throw it away."""
    place = tmp_path / "l.db"
    place.write_bytes(content)
    with pytest.raises(
        StoreDamaged, match=r"l\.db: .*damaged, or is not a ledger .*keep all"
    ) as caught:
        await SqlStore.open(place, IDENTITY)
    _no_loss_words(caught.value)
    assert place.read_bytes() == content


async def test_a_ledger_is_begun_only_where_it_may_be(tmp_path: Path) -> None:
    """A wrong folder, a lost or an emptied file must not become a new ledger in silence."""
    place = tmp_path / "l.db"
    with pytest.raises(LedgerMissing, match="there is no ledger at"):
        await SqlStore.open(place, IDENTITY, begin=False)
    assert not place.exists()
    place.touch()
    with pytest.raises(LedgerMissing, match="is empty"):
        await Database.open(place, IDENTITY, begin=False)
    await (await SqlStore.open(place, IDENTITY)).close()
    await (await SqlStore.open(place, IDENTITY, begin=False)).close()
