"""What may be spent on a day holds over processes, also over one that was killed in an answer."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.buyer.ledger.network_record import NetworkFile, NetworkRecord, held_at
from viz.buyer.network.budget import Budget, DayBudget
from viz.buyer.network.policy import Request
from viz.domain.units import AdapterId, Hash32
from viz.errors import BudgetSpent, StoreError
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import CHAT_PATH

DAY_S = 86_400
DIGEST = Hash32(b"\1" * 32)


class Clock:
    """A clock that stands until it is moved."""

    now = 1_796_000_000

    def now_s(self) -> int:
        return self.now


def budget(home: Path, clock: Clock, day_units: int | None = 1_000) -> DayBudget:
    """Return what a process of the buyer in ``home`` uses."""
    return DayBudget(Budget(1, day_units=day_units), NetworkFile(home), clock, DEPLOYMENT)


def kill(process: DayBudget, units: int = 300) -> None:
    """Let a process begin an answer that may cost ``units``, and never end it."""
    NEVER_ENDED.enter_context(process.reserve(units, units, 5_000))


# Its contexts are never left, as those of a process that is killed.
NEVER_ENDED: Final = ExitStack()


def test_what_a_killed_process_held_counts_as_spent(tmp_path: Path) -> None:
    """Three kills in mid-answer, and the day's limit had seen nothing of what they cost."""
    clock = Clock()
    for _ in range(3):
        kill(budget(tmp_path, clock))
    left = budget(tmp_path, clock)
    assert left.spent_units == 900
    with (
        pytest.raises(BudgetSpent, match=r"0\.000100 vUSD are left"),
        left.reserve(101, 101, 5_000),
    ):
        pass
    with left.reserve(100, 300, 5_000) as reservation:
        assert reservation.units == 100
    clock.now += DAY_S
    assert budget(tmp_path, clock).spent_units == 900, "its answer may have ended after midnight"
    clock.now += DAY_S
    with left.reserve(1_000, 1_000, 5_000):
        assert len(NetworkFile(tmp_path).read().held) == 1, "those of former days are forgotten"


def test_a_refusal_tells_what_is_spent_from_what_is_held(tmp_path: Path) -> None:
    """One killed request held the whole day, and "wait until midnight" was no way out."""
    clock = Clock()
    kill(budget(tmp_path, clock), 600)
    left = budget(tmp_path, clock)
    assert held_at(tmp_path, clock.now) == 600
    with left.reserve(300, 300, 5_000) as running:
        assert (left.spent_units, left.left_units) == (600, 100)
        assert budget(tmp_path, clock, None).left_units is None
    with left.reserve(300, 400, 5_000) as running:
        left.spend(running, 50)
        with (
            pytest.raises(BudgetSpent) as refused,
            left.reserve(10, 10, 5_000),
        ):
            pass
    assert "0.000000 vUSD are left" in refused.value.detail
    assert "0.000950 vUSD are held" in refused.value.detail
    assert "midnight" not in refused.value.detail
    with left.reserve(10, 10, 5_000):
        assert held_at(tmp_path, clock.now) == 610
    with (
        pytest.raises(BudgetSpent, match="until midnight"),
        budget(tmp_path / "other", clock, 5).reserve(10, 10, 5_000),
    ):
        pass


def test_processes_at_once_do_not_exceed_the_day(tmp_path: Path) -> None:
    first, second = budget(tmp_path, Clock()), budget(tmp_path, Clock())
    with first.reserve(600, 600, 5_000) as held:
        with pytest.raises(BudgetSpent), second.reserve(401, 401, 5_000):
            pass
        with second.reserve(100, 900, 5_000) as rest:
            assert rest.units == 400
            first.spend(held, 500)
            second.spend(rest, 10)
    record = NetworkFile(tmp_path).read()
    assert list(record.days.values()) == [510] and not record.held


@pytest.mark.parametrize("length", [-1, -100_000])
def test_a_negative_length_reserves_nothing(tmp_path: Path, length: int) -> None:
    """Some programs send -1 for "no limit": what was held then could be read by no process."""
    said = [{"role": "user", "content": "When?"}]
    body = {"model": "m", "messages": said, "max_tokens": length}
    units = Request.of(body, CHAT_PATH).units(AdapterOffer(AdapterId(7), "m", DIGEST, 0, 2_000_000))
    left = budget(tmp_path, Clock())
    with left.reserve_for(units, units, units, 5_000):
        pass
    with left.reserve(-5, -5, 5_000):
        assert NetworkFile(tmp_path).read().held == {}


def test_without_a_limit_a_killed_request_counts_with_what_is_likely(tmp_path: Path) -> None:
    """The cap of one answer is far above what most cost: it would use up a later limit."""
    unlimited = budget(tmp_path, Clock(), None)
    with unlimited.reserve(100, 300, 5_000) as reservation:
        assert reservation.units == 5_000
        assert budget(tmp_path, Clock()).spent_units == 300
        unlimited.spend(reservation, 400)
        assert budget(tmp_path, Clock()).spent_units == 400
    assert NetworkFile(tmp_path).read().held == {}


def test_a_full_disk_ends_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written still counts in this process."""

    def full(*_: object) -> NetworkRecord:
        raise StoreError("the disk is full")

    process = budget(tmp_path, Clock())
    monkeypatch.setattr(process._file, "change", full)
    with process.reserve(600, 600, 5_000) as held:
        with pytest.raises(BudgetSpent), process.reserve(401, 401, 5_000):
            pass
        process.spend(held, 500)
    with pytest.raises(BudgetSpent), process.reserve(501, 501, 5_000):
        pass
    assert process.spent_units == 500
    monkeypatch.undo()
    with process.reserve(100, 100, 5_000):
        assert budget(tmp_path, Clock()).spent_units == 600, "it is written when there is room"
    assert process.spent_units == 500


@pytest.mark.parametrize("stops", [False, True], ids=["at the next answer", "at the stop"])
def test_what_a_full_disk_left_held_is_freed_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """All answers were paid and recorded, and half of the day's limit stayed held for two days."""

    def full(*_: object) -> NetworkRecord:
        raise StoreError("the disk is full")

    process = budget(tmp_path, Clock())
    with process.reserve(300, 300, 5_000) as paid, process.reserve(300, 300, 5_000):
        process.spend(paid, 100)
        monkeypatch.setattr(process._file, "change", full)
        process.spend(paid, 50)
    assert held_at(tmp_path, Clock.now) == 500 and process.spent_units == 150
    with pytest.raises(BudgetSpent), process.reserve(851, 851, 5_000):
        pass
    monkeypatch.undo()
    if stops:
        process.close()
    else:
        with process.reserve(850, 850, 5_000) as rest:
            process.spend(rest, 1)
    record = NetworkFile(tmp_path).read()
    assert not record.held and list(record.days.values()) == [150 if stops else 151]


def test_an_answer_over_midnight_counts_for_other_processes(tmp_path: Path) -> None:
    """It is recorded on the day on which it ends, and another had all of that day's limit."""
    clock = Clock()
    first, second = budget(tmp_path, clock), budget(tmp_path, clock)
    with first.reserve(900, 900, 5_000) as held:
        clock.now += DAY_S
        with pytest.raises(BudgetSpent), second.reserve(101, 101, 5_000):
            pass
        with second.reserve(100, 100, 5_000):
            first.spend(held, 800)
    assert list(NetworkFile(tmp_path).read().days.values()) == [800]


def test_no_more_is_held_than_a_request_can_cost(tmp_path: Path) -> None:
    """One answer held three times its cost, and no other could begin beside it."""
    process = budget(tmp_path, Clock())
    with process.reserve_for(400, 400, 450, 5_000), process.reserve_for(400, 400, 450, 5_000):
        assert process.left_units == 100
    with process.reserve_for(100, 100, 5_000, 5_000):
        assert process.left_units == 700, "the estimate of the prompt may be low"
