"""The database behind the ledger: opening it, checking whose books it holds, reading and writing.

Owns the connections and the checks at opening. Does not know what the tables mean. Invariants: one
process at a time has a SQLite ledger open; a commit is flushed to disk before it returns; books of
another node, chain, contract or schema are refused and left as they are; a ledger is begun only
where the caller says that it may be.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, TypeVar

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
from viz.store.faults import Room, fault_of, os_fault
from viz.store.tables import SCHEMA_VERSION, LedgerTable, Meta, table
from viz.store.writer import CommitHook, GroupWriter, Work

T = TypeVar("T")
READ_LIMIT_S: Final = 30.0
BATCH_ROWS: Final = 500
_log = structlog.get_logger()
_META: Final = table(Meta)


class Database:
    """One ledger file or server; ``open`` it, ``close`` it."""

    def __init__(
        self, engine: Engine, lock: IO[str] | None, hook: CommitHook | None, place: Path | None
    ) -> None:
        self._engine, self._lock, self._place = engine, lock, place
        self.writer = GroupWriter(engine, hook, place=place)
        self.room = Room(place)
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
        """Open the ledger at ``place`` (a SQLite file, or an SQLAlchemy URL), or ``begin`` one.

        ``identity`` says whose books they are (node, chain, contracts); it is stored at creation
        and compared ever after. Raises BooksMismatch, StoreError, LedgerMissing where there is
        none and none may be begun.
        """
        return await asyncio.to_thread(cls._open, place, dict(identity), hook, begin)

    @classmethod
    def _open(
        cls, place: Path | str, identity: dict[str, str], hook: CommitHook | None, begin: bool
    ) -> Database:
        lock: IO[str] | None = None
        if isinstance(place, Path):
            if not begin and not place.exists():
                raise LedgerMissing(f"there is no ledger at {place}")
            try:
                make_private_folder(place.parent)
                lock = _lock(place)
                # SQLite gives its journal and its index the mode of the database.
                make_private_file(place)
                close_if_there(*(place.with_name(place.name + end) for end in ("-wal", "-shm")))
            except OSError as error:
                if lock is not None:
                    lock.close()
                raise _named(place, os_fault(error)) from error
            # Parameters are people's questions and answers: no error may carry them into a log.
            threads = {"check_same_thread": False}
            engine = create_engine(f"sqlite:///{place}", connect_args=threads, hide_parameters=True)
        else:
            engine = create_engine(place, hide_parameters=True)
        try:
            if engine.dialect.name == "sqlite":
                _make_durable(engine)
            with engine.begin() as connection:
                _check_books(connection, identity, str(place), begin=begin)
        except BaseException as error:
            engine.dispose()
            if lock is not None:
                lock.close()
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

    async def write(self, point: str, work: Work[T]) -> T:
        """Run ``work`` in the writer's next group commit. Raises StoreError."""
        return await self.writer.write(point, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on committed rows, beside the writer. Raises StoreError."""

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

    async def close(self) -> None:
        """Finish the writes that were asked for, then let the ledger go."""
        await self.writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _file(place: Path | str) -> Path | None:
    return place if isinstance(place, Path) else None


def _named(place: Path | str, fault: StoreError) -> StoreError:
    """Return the fault with the ledger's place before it: for its operator, at the start."""
    return type(fault)(f"the ledger {place if isinstance(place, Path) else ''}: {fault.detail}")


def write_row(connection: Connection, to: Table, row: Mapping[str, Any]) -> None:
    """Update the row with the same primary key, or insert it: portable, as there is one writer."""
    keys = list(to.primary_key.columns)
    where = [column == row[column.name] for column in keys]
    values = {name: value for name, value in row.items() if name not in to.primary_key.columns}
    if connection.execute(to.update().where(*where).values(values)).rowcount == 0:
        connection.execute(insert(to).values(dict(row)))


async def in_batches(database: Database, point: str, statement: Executable) -> int:
    """Repeat a statement that changes BATCH_ROWS rows at most until none is left; return how many.

    What is due to be forgotten may be much: vouchers get their turn between two batches.
    """
    done = 0
    while changed := await database.write(point, lambda c: int(c.execute(statement).rowcount)):
        done += changed
        if changed < BATCH_ROWS:
            break
    return done


def _lock(place: Path) -> IO[str]:
    path = place.with_name(place.name + ".lock")
    make_private_file(path)
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreError(
            f"{place} is open in another process: stop the node that uses it first"
        ) from error
    return lock


def _make_durable(engine: Engine) -> None:
    """Let SQLAlchemy own the transactions of sqlite3, and flush every commit."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            "journal_size_limit = 1048576",
            "synchronous = FULL",
            "busy_timeout = 10000",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def _check_books(
    connection: Connection, identity: dict[str, str], place: str, *, begin: bool
) -> None:
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
                f"{place} holds the books for {key} {found.get(key)}, but this node runs with "
                f"{value}: point it to the right chain and key, or give it another data directory"
            )
    LedgerTable.metadata.create_all(connection)  # tables that this version added
