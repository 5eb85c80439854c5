"""Write to the ledger in order, and commit many small writes with one disk flush.

Owns the write connection, the order of writes and the group commit. A thread writes; a short write
of a request that is alone may be committed in the event loop's thread (``lone``). Invariants:
writes take effect in the order in which they were requested; a caller is answered only after the
commit that contains its work has returned; work that raises changes nothing and does not disturb
the others in its group.

Work is a function of a connection. It may run twice: if one in its group fails, the group is
rolled back and each runs alone; if the database refuses a lone one before its commit, the thread
runs it again. So its only effect must be on the database. If the database refuses, each caller gets
its message (``faults``), and the log gets one a minute. The next write uses a new connection, so
the ledger continues by itself once its disk works again.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from viz.errors import StoreError
from viz.store.faults import fault_of
from viz.store.lone import LoneWrites
from viz.store.transaction import run, transaction, writing

T = TypeVar("T")
LedgerWrite = Callable[[Connection], T]
CommitHook = Callable[[str], None]
"""Called in the thread that commits, with ``"<point>:before"`` and ``"<point>:after"`` a commit."""

GROUP_LIMIT: Final = 256
WAIT_LIMIT_S: Final = 30.0
LOCK_WAIT_MS: Final = 10_000
"""How long a write waits while another program has locked the ledger; a lone one does not wait."""
_TELL_EVERY_S: Final = 60.0
_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Job:
    point: str
    write: LedgerWrite[Any]
    short: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = field(default=None)


class GroupWriter:
    """The thread that writes the ledger; it starts at creation and ends with ``close``."""

    def __init__(
        self, engine: Engine, hook: CommitHook | None = None, *, place: Path | None = None
    ) -> None:
        """Start the thread; ``place`` is the file of a SQLite ledger, tested after an error."""
        self._engine, self._hook, self._place = engine, hook, place
        self.lone = LoneWrites()
        # Held by the thread that uses the connection.
        self._turn = threading.Lock()
        self._connection: Connection | None = None
        self._lock_wait_ms = LOCK_WAIT_MS
        self._refused, self._told_at = 0, float("-inf")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Those handed to the thread and not ended; no later write may be committed before them.
        self._handed: set[_Job] = set()
        self._closed = False
        self.commits = 0
        self.writes = 0
        self._thread = threading.Thread(target=self._run, name="viz-ledger", daemon=True)
        self._thread.start()

    async def write(self, point: str, work: LedgerWrite[T], *, short: bool = False) -> T:
        """Run ``work`` in a transaction and return its result after it is on disk.

        ``point`` names the commit point. ``short`` work writes few rows and reads fewer. If the
        caller is cancelled, its work is still committed. Raises any VizError that the work raises,
        or StoreError.
        """
        if self._closed:
            raise StoreError("the ledger is closed: the node is stopping")
        loop = asyncio.get_running_loop()
        job = _Job(point, work, short, loop, loop.create_future())
        if short and self._commit_lone(job):
            if job.error is not None:
                raise job.error
            done: T = job.result
            return done
        self._handed.add(job)
        self._jobs.put(job)
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                result: T = await asyncio.shield(job.future)
                return result
        except TimeoutError as error:
            raise StoreError("the ledger's disk does not answer: check the disk") from error

    async def close(self) -> None:
        """Finish the requested writes and end the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, WAIT_LIMIT_S)

    def _run(self) -> None:
        """Commit in groups: everything that was requested during the last commit is one group."""
        stopping = False
        while not stopping:
            group = [self._jobs.get()]
            while len(group) < GROUP_LIMIT:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            stopping = None in group
            jobs = [job for job in group if job is not None]
            with self._turn:
                if jobs and not self._commit(jobs):
                    for job in jobs:
                        self._commit([job], alone=True)
            self._handed.difference_update(jobs)
            _answer(jobs)
        self._disconnect()

    def _commit_lone(self, job: _Job) -> bool:
        """Commit the job in this thread; return False if it was not, and the other thread must."""
        if self._connection is None or self._place is None or not self.lone.allowed:
            return False
        if self._handed or not self._turn.acquire(blocking=False):
            return False
        try:
            return self._commit([job], lone=True)
        finally:
            self._turn.release()

    def _commit(self, jobs: Sequence[_Job], *, alone: bool = False, lone: bool = False) -> bool:
        """Run the jobs in one transaction; return False if they must be run again, one by one.

        A ``lone`` job does not wait for locks. If the database refuses it, it must be run again,
        unless its commit was begun.
        """
        started, committing_at = time.perf_counter(), None
        try:
            connection = self._connected(0 if lone else LOCK_WAIT_MS)
            with transaction(connection):
                for job in jobs:
                    job.error = None
                    job.result = job.write(connection)
                self._at(jobs, "before")
                committing_at = time.perf_counter()
        except Exception as error:  # noqa: BLE001  every failure is raised at the job's caller
            again = not alone and len(jobs) > 1
            if not isinstance(error, SQLAlchemyError):
                jobs[0].error = error
            else:
                self.lone.failed()
                again = again or (lone and committing_at is None)
                if not again:
                    jobs[0].error = self._told(error)
                # Only after the fault was determined: closing changes the files that show it.
                self._disconnect()
            return not again
        if self._refused:
            _log.warning("the ledger writes again", refused_writes=self._refused)
            self._refused, self._told_at = 0, float("-inf")
        # Of others than lone ones only the commit: how long the statements of a group take says
        # nothing of the disk.
        took_s = time.perf_counter() - (started if lone else committing_at)
        self.lone.took(took_s, short=all(job.short for job in jobs))
        self.commits += 1
        self.writes += len(jobs)
        self._at(jobs, "after")
        return True

    def _connected(self, lock_wait_ms: int) -> Connection:
        """Return the connection, which waits as long for another program's lock (SQLite)."""
        if self._connection is None:
            self._connection, self._lock_wait_ms = writing(self._engine), LOCK_WAIT_MS
        if self._lock_wait_ms != lock_wait_ms:
            run(self._connection, f"PRAGMA busy_timeout = {lock_wait_ms}")
            self._lock_wait_ms = lock_wait_ms
        return self._connection

    def _told(self, error: SQLAlchemyError) -> StoreError:
        fault = fault_of(error, self._place)
        fault.__cause__ = error
        self._refused += 1
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            _log.error(
                "the ledger refuses writes",
                code=fault.code,
                reason=fault.detail,
                ledger=str(self._place or ""),
                refused_writes=self._refused,
            )
        return fault

    def _disconnect(self) -> None:
        """Close the connection, which rolls back a failed transaction."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.invalidate()
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    def _at(self, jobs: Sequence[_Job], moment: str) -> None:
        if self._hook is not None:
            for job in jobs:
                self._hook(f"{job.point}:{moment}")


def _answer(jobs: Sequence[_Job]) -> None:
    """Set the callers' futures, with one call into each event loop for the whole group."""

    def resolve(of_loop: Sequence[_Job]) -> None:
        for job in of_loop:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)

    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, of_loop in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve, of_loop)
