"""Run blocking work in a thread that nothing waits for: not the process's end, and no other work.

The threads of the event loop (``asyncio.to_thread``) are few, and the process's end waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar, cast

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], *, name: str) -> T:
    """Run ``work`` in a daemon thread called ``name``; return its result, or raise its error.

    If the caller is cancelled, the thread goes on and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def resolve(result: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast(T, result))

    def runs() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:  # noqa: BLE001  raised in the caller
            error = caught
        with suppress(RuntimeError):  # the loop has ended, and nobody is waiting
            loop.call_soon_threadsafe(resolve, result, error)

    Thread(target=runs, daemon=True, name=name).start()
    return await done
