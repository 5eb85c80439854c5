"""What strangers may ask, and who waits behind whom."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.chain import FakeClock

from viz.api.rate_limit import (
    ALL_TIMES,
    LOOKS_AT_ONCE,
    LOOKS_WAITING,
    SITE_SHARES,
    Looks,
    RateLimit,
)
from viz.errors import TooManyQuestions


def test_the_networks_of_one_site_are_no_crowd() -> None:
    """One subscriber's /48 holds 65,536 /64s: they must not use up what all have together."""
    budget = RateLimit(FakeClock(), 60)
    admitted = 0
    for number in range(ALL_TIMES * 60):
        try:
            budget.admit(f"2001:db8:5:{number:x}::/64")
            admitted += 1
        except TooManyQuestions:
            pass
    assert admitted == SITE_SHARES * 60
    budget.admit("2001:db8:6:1::/64")
    budget.admit("198.51.100.7")


async def test_the_nodes_own_looks_wait_behind_nobody() -> None:
    """A supervisor restarts a node whose health does not answer: strangers' looks at a slow chain
    must not hold it up, and beyond a bound they are refused, not queued."""
    looks, release = Looks(FakeClock()), asyncio.Event()

    async def slow() -> str:
        await release.wait()
        return "slow"

    async def quick() -> str:
        return "ok"

    bound = LOOKS_AT_ONCE + LOOKS_WAITING
    waiting = [asyncio.ensure_future(looks.get(number, slow, kept_s=5)) for number in range(bound)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await asyncio.wait_for(looks.get("health", quick, kept_s=2, own=True), 5) == "ok"
    with pytest.raises(TooManyQuestions, match="wait already"):
        await looks.get("one more", slow, kept_s=5)
    release.set()
    assert await asyncio.gather(*waiting) == ["slow"] * bound
    assert await looks.get("one more", slow, kept_s=5) == "slow"
