"""A loop of the daemon survives what it did not expect; a chain mismatch ends the node."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.chain import FakeClock

from viz.errors import ChainMismatch, StoreError
from viz.services.upkeep import supervision
from viz.services.upkeep.supervision import Failure, Supervisor


async def test_a_loop_goes_on_after_any_error() -> None:
    """TypeError, KeyError, a refused write: each is waited for, and the loop is begun again."""
    supervisor, begun = Supervisor(FakeClock(), first_pause_s=0), 0
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
    assert not supervisor.failing and seen == ["watcher"] * len(errors)


async def test_what_fails_is_told_while_it_waits() -> None:
    """Whoever asks how the node stands hears which loop failed, and why."""
    clock = FakeClock()
    supervisor, failed = Supervisor(clock, first_pause_s=3_600), asyncio.Event()

    async def loop() -> None:
        failed.set()
        raise TypeError("null")

    task = asyncio.create_task(supervisor.run("watcher", loop))
    await failed.wait()
    await asyncio.sleep(0)
    assert supervisor.failing == {"watcher": Failure(clock.now_s(), "TypeError: null")}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_that_fails_at_every_attempt_fails_since_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not look well between two attempts; one that runs on for a while is well again."""
    clock, again, gone_on = FakeClock(), asyncio.Event(), asyncio.Event()
    supervisor, began_s, begun = Supervisor(clock, first_pause_s=0), clock.now_s(), 0

    async def loop() -> None:
        nonlocal begun
        begun += 1
        clock.now += 10
        if begun < 3:
            raise StoreError(f"attempt {begun}")
        gone_on.set()
        await again.wait()

    task = asyncio.create_task(supervisor.run("watcher", loop))
    await gone_on.wait()
    assert supervisor.failing == {"watcher": Failure(began_s + 10, "attempt 2")}
    monkeypatch.setattr(supervision, "STEADY_S", 0.0)
    assert not supervisor.failing
    again.set()
    await task


async def test_another_chain_ends_it() -> None:
    """Books of one chain never meet another: the mismatch reaches the root at once."""
    begun = 0

    async def loop() -> None:
        nonlocal begun
        begun += 1
        raise ChainMismatch("the chain was reset")

    with pytest.raises(ChainMismatch):
        await Supervisor(FakeClock(), first_pause_s=0).run("watcher", loop)
    assert begun == 1
