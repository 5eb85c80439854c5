"""Open the ledger's database, check whose ledger it is, and read and write it.

Owns the connections and the checks at opening. Invariants: one process at a time has a SQLite
ledger open; a commit is flushed to disk before it returns; a ledger of another node, chain,
contract or schema is refused and not changed; a new ledger is created only if the caller allows it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from viz.errors import BooksMismatch, LedgerMissing, StoreError
from viz.private import close_if_there, make_private_file, make_private_folder
from viz.process_lock import ProcessLock
from viz.store.faults import FreeSpace, fault_of, os_fault
from viz.store.tables import SCHEMA_VERSION, LedgerTable, MetaTable, table
from viz.store.transaction import is_by_hand
from viz.store.writer import LOCK_WAIT_MS, CommitHook, GroupWriter, LedgerWrite

T = TypeVar("T")
READ_LIMIT_S: Final = 30.0
BATCH_ROWS: Final = 500
_EMPTYINGS: Final = 100
_log = structlog.get_logger()
_META: Final = table(MetaTable)


class Database:
    """One ledger, in a file or on a server; use ``open`` and ``close``."""

    def __init__(
        self, engine: Engine, lock: ProcessLock | None, hook: CommitHook | None, place: Path | None
    ) -> None:
        self._engine, self._lock, self._place = engine, lock, place
        self.writer = GroupWriter(engine, hook, place=place)
        self.room = FreeSpace(place)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="viz-ledger-read")

    @classmethod
    async def open(
        cls,
        place: Path | str,
        identity: Mapping[str, str],
        hook: CommitHook | None = None,
        *,
        begin: bool = True,
    ) -> Database:
        """Open the ledger at ``place`` (a SQLite file, or an SQLAlchemy URL), or create one.

        ``identity`` says whose ledger it is (node, chain, contracts). It is stored at creation,
        and compared at every later opening. Raises BooksMismatch if it differs, StoreError, and
        LedgerMissing if there is no ledger and ``begin`` is False.
        """
        return await asyncio.to_thread(cls._open, place, dict(identity), hook, begin)

    @classmethod
    def _open(
        cls, place: Path | str, identity: dict[str, str], hook: CommitHook | None, begin: bool
    ) -> Database:
        lock: ProcessLock | None = None
        if isinstance(place, Path):
            if not begin and not place.exists():
                raise LedgerMissing(f"there is no ledger at {place}")
            try:
                make_private_folder(place.parent)
                lock = _lock(place)
                # SQLite gives its -wal and -shm files the mode of the database file.
                make_private_file(place)
                close_if_there(*(place.with_name(place.name + end) for end in ("-wal", "-shm")))
            except OSError as error:
                if lock is not None:
                    lock.release()
                raise _named(place, os_fault(error)) from error
            # Parameters may be people's prompts and answers: hide them from errors and logs.
            threads = {"check_same_thread": False}
            engine = create_engine(f"sqlite:///{place}", connect_args=threads, hide_parameters=True)
        else:
            engine = create_engine(place, hide_parameters=True)
        try:
            if engine.dialect.name == "sqlite":
                _make_durable(engine)
            with engine.begin() as connection:
                _check_identity(connection, identity, str(place), begin=begin)
        except BaseException as error:
            engine.dispose()
            if lock is not None:
                lock.release()
            if isinstance(error, SQLAlchemyError):
                raise _named(place, fault_of(error, _file(place))) from error
            raise
        opened = cls(engine, lock, hook, _file(place))
        try:
            opened.room.require()
        except StoreError as error:
            _log.error(
                "the ledger has no room for new work", reason=error.detail, ledger=str(place)
            )
        return opened

    async def write(self, point: str, work: LedgerWrite[T], *, short: bool = False) -> T:
        """Run ``work`` in the writer's next group commit. Raises StoreError."""
        return await self.writer.write(point, work, short=short)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on committed rows, in parallel to the writer. Raises StoreError."""

        def run() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                return await loop.run_in_executor(self._readers, run)
        except TimeoutError as error:
            raise StoreError("the ledger's disk does not answer: check the disk") from error
        except SQLAlchemyError as error:
            raise fault_of(error, self._place) from error

    async def forget_changed(self) -> None:
        """Empty SQLite's log, which still holds the old content of changed and deleted rows.

        The database file itself never holds it (``secure_delete``). Does nothing for a database
        server. Raises StoreError if readers or writers prevent it for some seconds.
        """
        if self._engine.dialect.name != "sqlite":
            return

        def run() -> bool:
            raw = self._engine.raw_connection()
            try:
                row = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return bool(row is not None and row[0] == 0)
            finally:
                raw.close()

        loop = asyncio.get_running_loop()
        try:
            for _ in range(_EMPTYINGS):
                if await loop.run_in_executor(self._readers, run):
                    return
                await asyncio.sleep(0.1)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(f"the ledger's log cannot be emptied: {error}") from error
        raise StoreError("the ledger is read or written, so its log cannot be emptied: try again")

    async def close(self) -> None:
        """Finish the requested writes, then close the connections and unlock the ledger."""
        await self.writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _file(place: Path | str) -> Path | None:
    return place if isinstance(place, Path) else None


def _named(place: Path | str, fault: StoreError) -> StoreError:
    """Return the error with the ledger's path before it, for the operator at start."""
    return type(fault)(f"the ledger {place if isinstance(place, Path) else ''}: {fault.detail}")


def write_row(connection: Connection, to: Table, row: Mapping[str, Any]) -> None:
    """Update the row with the same primary key, or insert it.

    Two statements instead of an upsert, which differs between databases. There is one writer, so
    nothing happens in between.
    """
    keys = list(to.primary_key.columns)
    where = [column == row[column.name] for column in keys]
    values = {name: value for name, value in row.items() if name not in to.primary_key.columns}
    if connection.execute(to.update().where(*where).values(values)).rowcount == 0:
        connection.execute(insert(to).values(dict(row)))


async def in_batches(database: Database, point: str, statement: Executable) -> int:
    """Repeat a statement of at most BATCH_ROWS rows until none is left; return how many changed.

    Many rows may be due for deletion. In batches, other writes such as vouchers do not wait long.
    """
    done = 0
    while changed := await database.write(point, lambda c: int(c.execute(statement).rowcount)):
        done += changed
        if changed < BATCH_ROWS:
            break
    return done


def _lock(place: Path) -> ProcessLock:
    path = place.with_name(place.name + ".lock")
    make_private_file(path)
    lock = ProcessLock.take(path)
    if lock is None:
        raise StoreError(f"{place} is open in another process: stop the node that uses it first")
    return lock


def _make_durable(engine: Engine) -> None:
    """Let SQLAlchemy, not sqlite3, begin transactions, and flush every commit to disk."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            "journal_size_limit = 1048576",
            "synchronous = FULL",
            f"busy_timeout = {LOCK_WAIT_MS}",
            "foreign_keys = ON",
            # Deleted and changed content is overwritten: answers, withdrawn works.
            "secure_delete = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # On the driver's cursor: through SQLAlchemy this one statement costs as much as a write.
        if not is_by_hand(connection):
            connection.connection.cursor().execute("BEGIN")


def _check_identity(
    connection: Connection, identity: dict[str, str], place: str, *, begin: bool
) -> None:
    """Create an empty database's tables, or compare the stored identity with ``identity``."""
    expected = {"schema_version": str(SCHEMA_VERSION), **identity}
    if not inspect(connection).has_table("meta"):
        if not begin:
            raise LedgerMissing(f"{place} is empty")
        LedgerTable.metadata.create_all(connection)
        connection.execute(
            insert(_META), [{"key": key, "value": value} for key, value in expected.items()]
        )
        return
    found: dict[str, str] = {row.key: row.value for row in connection.execute(select(_META))}
    if found.get("schema_version") != expected["schema_version"]:
        raise StoreError(
            f"{place} has schema {found.get('schema_version')}, this version of Viz reads schema "
            f"{SCHEMA_VERSION}: settle with the version that wrote it, then start a new ledger"
        )
    for key, value in expected.items():
        if found.get(key) != value:
            raise BooksMismatch(
                f"{place} is the ledger for {key} {found.get(key)}, but this node runs with "
                f"{value}: configure the right chain and key, or give it another data directory"
            )
    LedgerTable.metadata.create_all(connection)  # adds tables that older versions did not have
