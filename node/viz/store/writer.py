"""One thread that writes, and makes many small transactions durable with one disk flush.

Owns the write connection, the order of writes and the group commit. Does not know any table.

Invariants: writes take effect in the order in which they were asked for; a caller is told only
after the commit that holds its work has returned; a piece of work that raises changes nothing and
disturbs no other one of its group.

A piece of work is a function of a connection that may run twice (when a neighbour of its group
failed, the group is rolled back and each runs alone), so it must have no effect but on the
database. What the database refuses is told to every caller in its own words (``faults``) and once a
minute to the log; each write after a refusal begins on a new connection, so the ledger goes on by
itself when its disk does.
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

T = TypeVar("T")
Work = Callable[[Connection], T]
CommitHook = Callable[[str], None]
"""Called in the writer thread as ``"<point>:before"`` and ``"<point>:after"`` each commit."""

GROUP_LIMIT: Final = 256
WAIT_LIMIT_S: Final = 30.0
_TELL_EVERY_S: Final = 60.0
_log = structlog.get_logger()


@dataclass(slots=True)
class _Job:
    point: str
    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = field(default=None)


class GroupWriter:
    """The write side of the ledger; start it by creating it, end it with ``close``."""

    def __init__(
        self, engine: Engine, hook: CommitHook | None = None, *, place: Path | None = None
    ) -> None:
        """``place`` is the file, where the ledger is one: what is wrong with it is looked at."""
        self._engine, self._hook, self._place = engine, hook, place
        self._connection: Connection | None = None
        self._refused, self._told_at = 0, float("-inf")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self.commits = 0
        self.writes = 0
        self._thread = threading.Thread(target=self._run, name="viz-ledger", daemon=True)
        self._thread.start()

    async def write(self, point: str, work: Work[T]) -> T:
        """Run ``work`` in a transaction and return its result once it is on disk.

        ``point`` names the commit point. A cancelled caller's work is still committed. Raises
        whatever VizError the work raises, or StoreError.
        """
        if self._closed:
            raise StoreError("the ledger is closed: the node is stopping")
        loop = asyncio.get_running_loop()
        job = _Job(point, work, loop, loop.create_future())
        self._jobs.put(job)
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                result: T = await asyncio.shield(job.future)
                return result
        except TimeoutError as error:
            raise StoreError("the ledger's disk does not answer: check the disk") from error

    async def close(self) -> None:
        """Finish what was asked for and end the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, WAIT_LIMIT_S)

    def _run(self) -> None:
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
            if jobs and not self._commit(jobs):
                for job in jobs:
                    self._commit([job], alone=True)
            _answer(jobs)
        self._let_go()

    def _commit(self, jobs: Sequence[_Job], *, alone: bool = False) -> bool:
        """Run the jobs in one transaction; return False when they must be tried one by one."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                for job in jobs:
                    job.error = None
                    job.result = job.work(self._connection)
                self._at(jobs, "before")
        except Exception as error:  # noqa: BLE001  every failure belongs to the job's caller
            again = not alone and len(jobs) > 1
            if not isinstance(error, SQLAlchemyError):
                jobs[0].error = error
            else:
                if not again:
                    jobs[0].error = self._told(error)
                self._let_go()  # not before: closing changes the files that tell what is wrong
            return not again
        if self._refused:
            _log.warning("the ledger writes again", refused_writes=self._refused)
            self._refused, self._told_at = 0, float("-inf")
        self.commits += 1
        self.writes += len(jobs)
        self._at(jobs, "after")
        return True

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

    def _let_go(self) -> None:
        """Close the connection; what it still holds of a failed transaction is rolled back."""
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
    """Wake the callers, one call into each event loop for the whole group."""

    def settle(of_loop: Sequence[_Job]) -> None:
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
            loop.call_soon_threadsafe(settle, of_loop)
