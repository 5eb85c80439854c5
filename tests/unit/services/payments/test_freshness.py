"""A node goes on selling while its chain fails or hangs, for a bounded time, and asks ever less."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict
from tests.fakes.chain import FakeClock

from viz.errors import BooksMismatch, ChainUnreachable
from viz.services.payments.freshness import OLDEST_S, SERVES_S, ChainAccess, Freshness, Reading


class Chain:
    """What is read, how often, and how it goes."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.access = ChainAccess(clock)
        self.freshness = Freshness(clock, self.access)
        self.asked = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def use(self, reading: Reading, *, fresh: bool = False) -> None:
        async def renew() -> None:
            self.asked += 1
            await self.gate.wait()
            if self.error:
                raise self.error
            reading.seen_s = self.clock.now_s()

        await self.freshness.ensure(reading, renew, within_s=5, fresh=fresh)


@pytest.fixture
def chain() -> Chain:
    return Chain(FakeClock())


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_a_reading_that_hangs_is_not_waited_for(chain: Chain) -> None:
    """An endpoint that never answers: every request goes on, and one question is open."""
    reading = Reading()
    await chain.use(reading)
    chain.gate.clear()
    for _ in range(50):
        chain.clock.now += 10
        await chain.use(reading)
    assert chain.asked == 2 and chain.access.impatient
    chain.gate.set()
    assert reading.renewal is not None
    await reading.renewal
    assert not chain.access.impatient and reading.seen_s == chain.clock.now


async def test_selling_on_an_old_reading_ends(chain: Chain) -> None:
    """After an hour without the chain nothing is sold, and the refusal says why."""
    reading = Reading()
    await chain.use(reading)
    chain.error = ChainUnreachable("HTTP 429")
    chain.clock.now += OLDEST_S - 1
    await chain.use(reading)
    chain.clock.now += 1
    with pytest.raises(ChainUnreachable, match=f"older than {OLDEST_S} s.*HTTP 429"):
        await chain.use(reading)
    chain.gate.clear()
    with pytest.raises(ChainUnreachable):
        await chain.use(reading)
    chain.error = None
    chain.gate.set()
    chain.clock.now += 60
    await chain.use(reading)


async def test_what_was_never_read_is_not_served(chain: Chain) -> None:
    """There is no old reading of a new channel: the error of the chain is the answer."""
    chain.error = ChainUnreachable("down")
    with pytest.raises(ChainUnreachable, match="down"):
        await chain.use(Reading())


async def test_failures_back_off_for_all_readings_together(chain: Chain) -> None:
    """A hundred channels do not ask a failing endpoint a hundred times a second."""
    readings = [Reading() for _ in range(100)]
    for reading in readings:
        await chain.use(reading)
    chain.error, chain.asked = TypeError("null"), 0
    for _ in range(600):
        chain.clock.now += 1
        for reading in readings:
            await chain.use(reading)
    assert chain.asked < 60
    chain.error = None
    chain.clock.now += 60
    await chain.use(readings[0])
    assert readings[0].seen_s == chain.clock.now and not chain.access.reason


async def test_a_clock_that_is_set_back_stops_no_question(chain: Chain) -> None:
    """The chain failed while the clock was a day ahead: it was not asked again for a day."""
    reading = Reading()
    await chain.use(reading)
    chain.clock.now += 86_400
    chain.error = ChainUnreachable("no answer")
    with pytest.raises(ChainUnreachable):
        await chain.use(reading)
    chain.clock.now -= 86_400
    chain.error = None
    chain.clock.now += 6
    await chain.use(reading)
    assert chain.asked == 3 and reading.seen_s == chain.clock.now


async def test_old_readings_are_told_once_a_minute_with_a_count(
    chain: Chain, logs: list[EventDict]
) -> None:
    """An operator sees how much is sold in the dark; the log does not fill up with it."""
    reading = Reading()
    await chain.use(reading)
    chain.error = ChainUnreachable("down")
    chain.clock.now += SERVES_S
    for _ in range(120):
        chain.clock.now += 1
        await chain.use(reading)
    told = [line for line in logs if line["event"] == "serving on old readings of the chain"]
    assert [line["requests"] for line in told] == [1, 60]


async def test_one_task_renews_a_reading_however_many_ask(chain: Chain) -> None:
    """Requests that come together share one question."""
    reading = Reading()
    chain.gate.clear()
    together = [asyncio.create_task(chain.use(reading)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    chain.gate.set()
    await asyncio.gather(*together)
    assert chain.asked == 1


async def test_a_caller_that_leaves_takes_no_renewal_with_it(chain: Chain) -> None:
    """A client that disconnects must not leave the next one without the reading."""
    reading = Reading()
    chain.gate.clear()
    leaving = asyncio.create_task(chain.use(reading))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    chain.gate.set()
    await chain.use(reading)
    assert chain.asked == 1


async def test_a_ledger_that_disagrees_stops_that_reading_alone(chain: Chain) -> None:
    """A fault of the ledger is raised until a reading agrees; it is no trouble of the endpoint."""
    reading, other = Reading(), Reading()
    await chain.use(reading)
    chain.error = BooksMismatch("settled is lower than in the ledger")
    chain.clock.now += 6
    for _ in range(2):
        with pytest.raises(BooksMismatch):
            await chain.use(reading)
    chain.error = None
    await chain.use(other)
    await chain.use(reading)


async def test_a_fresh_reading_begins_after_it_was_asked_for(chain: Chain) -> None:
    """What was under way before a deposit cannot know of it."""
    reading = Reading()
    chain.gate.clear()
    first = asyncio.create_task(chain.use(reading))
    await asyncio.sleep(0)
    second = asyncio.create_task(chain.use(reading, fresh=True))
    await asyncio.sleep(0)
    chain.gate.set()
    await asyncio.gather(first, second)
    assert chain.asked == 2
