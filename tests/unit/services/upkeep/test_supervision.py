"""A loop of the daemon survives what it did not expect; a chain mismatch ends the node."""

from __future__ import annotations

import asyncio

import pytest

from viz.errors import ChainMismatch, StoreError
from viz.services.upkeep.supervision import Supervisor


async def test_a_loop_goes_on_after_any_error() -> None:
    """TypeError, KeyError, a refused write: each is waited for, and the loop is begun again."""
    supervisor, begun = Supervisor(first_pause_s=0), 0
    errors = [
        TypeError("null"),
        KeyError("number"),
        StoreError("full"),
        RecursionError(),
        OSError(),
    ]
    seen: list[str] = []

    async def loop() -> None:
        nonlocal begun
        seen.extend(supervisor.failing)
        begun += 1
        if begun <= len(errors):
            raise errors[begun - 1]

    await supervisor.run("watcher", loop)
    assert begun == len(errors) + 1
    assert not supervisor.failing and not seen


async def test_what_fails_is_told_while_it_waits() -> None:
    """Whoever asks how the node stands hears which loop failed, and why."""
    supervisor, failed = Supervisor(first_pause_s=3_600), asyncio.Event()

    async def loop() -> None:
        failed.set()
        raise TypeError("null")

    task = asyncio.create_task(supervisor.run("watcher", loop))
    await failed.wait()
    await asyncio.sleep(0)
    assert supervisor.failing == {"watcher": "TypeError: null"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_chain_ends_it() -> None:
    """Books of one chain never meet another: the mismatch reaches the root at once."""
    begun = 0

    async def loop() -> None:
        nonlocal begun
        begun += 1
        raise ChainMismatch("the chain was reset")

    with pytest.raises(ChainMismatch):
        await Supervisor(first_pause_s=0).run("watcher", loop)
    assert begun == 1
