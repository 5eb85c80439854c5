"""One thread that writes, and makes many small transactions durable with one disk flush.

Owns the write connection, the order of writes and the group commit. Does not know any table.

Invariants: writes take effect in the order in which they were asked for; a caller is told only
after the commit that holds its work has returned; a piece of work that raises changes nothing and
disturbs no other one of its group.

A piece of work is a function of a connection that may run twice (when a neighbour of its group
failed, the group is rolled back and each runs alone), so it must have no effect but on the
database.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from viz.errors import StoreError, VizError

T = TypeVar("T")
Work = Callable[[Connection], T]
CommitHook = Callable[[str], None]
"""Called in the writer thread as ``"<point>:before"`` and ``"<point>:after"`` each commit."""

GROUP_LIMIT: Final = 256
WAIT_LIMIT_S: Final = 30.0


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

    def __init__(self, engine: Engine, hook: CommitHook | None = None) -> None:
        self._engine = engine
        self._hook = hook
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
        with self._engine.connect() as connection:
            while not stopping:
                group = [self._jobs.get()]
                while len(group) < GROUP_LIMIT:
                    try:
                        group.append(self._jobs.get_nowait())
                    except queue.Empty:
                        break
                stopping = None in group
                jobs = [job for job in group if job is not None]
                if jobs and not self._commit(connection, jobs):
                    for job in jobs:
                        self._commit(connection, [job], alone=True)
                _answer(jobs)

    def _commit(self, connection: Connection, jobs: Sequence[_Job], *, alone: bool = False) -> bool:
        """Run the jobs in one transaction; return False when they must be tried one by one."""
        try:
            with connection.begin():
                for job in jobs:
                    job.error = None
                    job.result = job.work(connection)
                self._at(jobs, "before")
        except Exception as error:  # noqa: BLE001  every failure belongs to the job's caller
            if not alone and len(jobs) > 1:
                return False
            jobs[0].error = _wrapped(error)
            return True
        self.commits += 1
        self.writes += len(jobs)
        self._at(jobs, "after")
        return True

    def _at(self, jobs: Sequence[_Job], moment: str) -> None:
        if self._hook is not None:
            for job in jobs:
                self._hook(f"{job.point}:{moment}")


def _wrapped(error: Exception) -> Exception:
    if isinstance(error, VizError):
        return error
    if isinstance(error, SQLAlchemyError):
        wrapped = StoreError("the ledger refused a write: see the log for the database's words")
        wrapped.__cause__ = error
        return wrapped
    return error


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
