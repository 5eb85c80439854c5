"""A clock that is a day off is said, and takes no deposit that could not be used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict
from tests.fakes.chain import NOW_S, FakeClock

from viz.errors import ClockWrong
from viz.services.upkeep.clock_check import TOLERATED_S, ClockCheck

DAY_S = 86_400


class Place:
    def __init__(self, *, development: bool = False) -> None:
        self.clock = FakeClock()
        self.chain_s, self.has_next = NOW_S, True
        self.check = ClockCheck(self.next_s, self.head_s, self.clock, development=development)

    async def next_s(self) -> int | None:
        return self.chain_s if self.has_next else None

    async def head_s(self) -> int:
        return self.chain_s

    async def refuses(self) -> bool:
        await self.check.step()
        try:
            self.check.require()
        except ClockWrong as error:
            assert "set the clock" in error.detail
            return True
        return False


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.mark.parametrize(("off_s", "side"), [(DAY_S, "ahead of"), (-DAY_S, "behind")])
async def test_a_clock_a_day_off_is_told_once_and_refuses_deposits(
    off_s: int, side: str, logs: list[EventDict]
) -> None:
    """In the log and in the health check, until the clock is right again."""
    place = Place()
    place.clock.now += off_s
    for _ in range(3):
        assert await place.refuses()
        place.clock.now += 60
        place.chain_s += 60
    assert place.check.state == f"{DAY_S} s {side} the chain"
    assert [line["event"] for line in logs] == ["the clock and the chain differ"]
    place.clock.now -= off_s
    assert not await place.refuses()
    assert place.check.state == "ok" and len(logs) == 2


async def test_a_few_minutes_are_nothing() -> None:
    """Blocks come when they come."""
    place = Place()
    place.clock.now += TOLERATED_S
    assert not await place.refuses() and place.check.state == "ok"


async def test_a_quiet_chain_still_takes_deposits() -> None:
    """A chain that makes blocks only for transactions has an old head, and a deposit ends that."""
    place = Place()
    place.chain_s, place.has_next = NOW_S - DAY_S, False
    assert not await place.refuses()
    assert place.check.state == f"{DAY_S} s ahead of the chain"


async def test_the_time_of_a_development_chain_may_be_moved() -> None:
    """Its future is said and no fault; a clock ahead of what it would stamp now is one."""
    place = Place(development=True)
    place.clock.now -= DAY_S
    assert not await place.refuses()
    assert place.check.state == f"{DAY_S} s behind the chain"
    place.clock.now += 2 * DAY_S
    assert await place.refuses()
