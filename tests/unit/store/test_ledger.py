"""The ledger keeps what it was given, exactly, and refuses books that are not this node's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from viz.domain.ledger import (
    AccessRecord,
    AdapterRecord,
    AnswerRecord,
    ChannelRecord,
    Line,
    ReceiptRecord,
    TrainingRecord,
)
from viz.domain.units import UINT96_MAX, AdapterId, Address, Cid, Hash32
from viz.errors import BooksMismatch, StoreConflict, StoreError
from viz.store.database import Database
from viz.store.ledger import SqlStore

IDENTITY = {"node": "0xN", "chain_id": "31337"}
ALICE = Address("0x" + "aA" * 20)
BOB = Address("0x" + "bB" * 20)
ADAPTER = AdapterId(2**32 - 1)


def digest(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await SqlStore.open(tmp_path / "ledger.db", IDENTITY)
    yield opened
    await opened.close()


def channel() -> ChannelRecord:
    return ChannelRecord(
        ALICE,
        base_units=UINT96_MAX - 7,
        lines={AdapterId(0): Line(1, 2, 2), ADAPTER: Line(0, UINT96_MAX, UINT96_MAX - 1)},
        signature=b"\x01" * 64,
        voucher_head=digest(1),
        voucher_seq=3,
        head=digest(2),
        seq=4,
        total_units=2**64,
        closed_until=9,
        voucher_at=1_800_000_000,
    )


def receipt(seq: int) -> ReceiptRecord:
    return ReceiptRecord(ALICE, seq, digest(100 + seq), digest(200 + seq), b"{}", 5)


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


@pytest.mark.parametrize("amount", [-1, UINT96_MAX + 1])
async def test_an_amount_out_of_bounds_is_never_stored(store: SqlStore, amount: int) -> None:
    """A bug upstream cannot write money that the contract does not know."""
    with pytest.raises(StoreError):
        await store.commit("voucher", ChannelRecord(ALICE, base_units=amount))
    assert await store.channel(ALICE) is None


async def test_a_stale_writer_is_refused_and_changes_nothing(store: SqlStore) -> None:
    """Two writers of one channel cannot both win."""
    first = await store.commit("voucher", channel())
    await store.commit("voucher", replace(first, seq=5), receipt=receipt(5))
    with pytest.raises(StoreConflict):
        await store.commit("voucher", replace(first, seq=6), receipt=receipt(6))
    with pytest.raises(StoreConflict):
        await store.commit("voucher", channel())
    stored = await store.channel(ALICE)
    assert stored is not None and stored.seq == 5
    assert [row.seq for row in await store.receipts(ALICE)] == [5]


async def test_a_change_is_saved_whole_or_not_at_all(store: SqlStore) -> None:
    """A receipt that cannot be stored leaves the channel as it was."""
    first = await store.commit("receipt", channel(), receipt=receipt(4))
    with pytest.raises(StoreError):
        await store.commit("receipt", replace(first, total_units=1), receipt=receipt(4))
    assert await store.channel(ALICE) == first
    assert await store.receipt_seq(ALICE, receipt(4).head) == 4
    assert await store.receipt_seq(ALICE, digest(0)) == 0
    assert await store.receipt_seq(BOB, receipt(4).head) is None


async def test_only_touched_lines_are_written(store: SqlStore) -> None:
    """The hot path writes what changed, and what it does not write stays."""
    first = await store.commit("voucher", channel())
    lines = {**first.lines, ADAPTER: Line(0, 9, 9), AdapterId(0): Line(1, 5, 5)}
    await store.commit("voucher", replace(first, lines=lines), touched={AdapterId(0)})
    stored = await store.channel(ALICE)
    assert stored is not None
    assert stored.lines == {**channel().lines, AdapterId(0): Line(1, 5, 5)}


async def test_a_failing_write_spares_its_neighbours(store: SqlStore, tmp_path: Path) -> None:
    """In one group commit, each caller gets its own result."""
    signers = [Address(f"0x{number:040x}") for number in range(64)]

    async def one(number: int) -> bool:
        bad = number % 8 == 3
        units = UINT96_MAX + 1 if bad else number
        try:
            await store.commit("voucher", ChannelRecord(signers[number], base_units=units))
        except StoreError:
            assert bad
            return False
        return True

    done = await asyncio.gather(*(one(number) for number in range(64)))
    stored = {row.signer: row.base_units for row in await store.channels()}
    assert stored == {signers[n]: n for n in range(64) if n % 8 != 3}
    assert sum(done) == len(stored) == 56


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


async def test_an_answer_belongs_to_its_token_and_outlives_its_body(store: SqlStore) -> None:
    """Idempotency keys are scoped to an access token; after a time only the hash stays."""
    answer = AnswerRecord(b"t1", "k", digest(1), digest(2), 200, "application/json", b"{}", 50)
    await store.commit("receipt", channel(), answer=answer)
    assert await store.answer(b"t1", "k") == answer
    assert await store.answer(b"t2", "k") is None
    assert await store.forget_answers(50) == 0
    assert await store.forget_answers(51) == 1
    assert await store.answer(b"t1", "k") == replace(answer, body=None)


async def test_a_challenge_admits_one_token(store: SqlStore) -> None:
    """A replayed challenge gives no second token."""
    access = AccessRecord(digest(7), ALICE, 100)
    assert await store.admit(digest(1), access)
    assert not await store.admit(digest(1), replace(access, token_hash=digest(8), signer=BOB))
    assert await store.access(digest(7)) == access
    assert await store.access(digest(8)) is None
    assert await store.forget_access(101) == 1
    assert await store.access(digest(7)) is None


async def test_catalogue_and_trainings_keep_their_records(store: SqlStore) -> None:
    """What is served and trained is known again after a restart."""
    adapter = AdapterRecord(
        ADAPTER, "n", "d", digest(1), digest(2), Cid("bafy"), digest(3), "/p", 2**64, 1, 9
    )
    await store.put_adapter(adapter)
    await store.put_adapter(replace(adapter, name="m"))
    assert list(await store.adapters()) == [replace(adapter, name="m")]
    await store.drop_adapter(ADAPTER)
    assert list(await store.adapters()) == []
    training = TrainingRecord("t", "running", {"works": [1]}, created_at=1)
    await store.put_training(training)
    done = replace(training, state="done", result={"loss": 0.5}, updated_at=2)
    await store.put_training(done)
    assert await store.training("t") == done and list(await store.trainings()) == [done]
    assert await store.training("u") is None


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


async def test_a_corrupt_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """A file that is no ledger is named, not overwritten."""
    place = tmp_path / "l.db"
    place.write_bytes(b"not a database, but long enough to be mistaken for one" * 100)
    with pytest.raises(StoreError, match="restore a backup"):
        await SqlStore.open(place, IDENTITY)
    assert place.read_bytes().startswith(b"not a database")


async def test_two_processes_cannot_share_a_ledger(tmp_path: Path) -> None:
    """A second daemon on the same books is told to stop the first."""
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
