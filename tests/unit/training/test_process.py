"""The parent's side of a run, with real processes that misbehave: a cancel or a result is kept."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from viz.errors import TrainingCancelled, TrainingError
from viz.training import process as process_module
from viz.training.process import TrainingProcess
from viz.training.run import TrainingRun, TrainingSettings, WorkInput

RUN = TrainingRun(
    name="a",
    works=(WorkInput(1, "text", Path("w.txt"), "0x" + "aa" * 20, "0x" + "01" * 32, "0x00"),),
    settings=TrainingSettings(),
    base_model="tiny",
    cache_dir=Path("cache"),
)
_SAY: Final = "print({!r}, flush=True)"
_HANG: Final = "import time; time.sleep(600)"
STARTED: Final = _SAY.format('{"event": "started"}')
RESULT: Final = _SAY.format('{"event": "result", "metrics": {}}')


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a setter of what the child process does."""

    def use(*lines: str) -> None:
        command = [sys.executable, "-c", "\n".join(lines)]
        monkeypatch.setattr(process_module, "tied", lambda _: command)

    return use


async def _follow(runner: TrainingProcess) -> list[str]:
    async with asyncio.timeout(60):
        return [event.kind async for event in runner.events()]


async def test_a_cancel_while_the_worker_is_being_made_is_kept(tmp_path: Path, worker: Any) -> None:
    """Protects whoever cancels: a run that has no process yet does not go on to its end."""
    worker(STARTED, _HANG)
    runner = TrainingProcess(RUN, tmp_path)
    following = asyncio.create_task(_follow(runner))
    await asyncio.sleep(0)
    assert (tmp_path / "worker.log").exists() and runner.pid is None
    await runner.cancel()
    with pytest.raises(TrainingCancelled):
        await following


async def test_a_result_outlives_its_worker(
    tmp_path: Path, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects an hour of training: a worker that hangs on its way out keeps its result."""
    monkeypatch.setattr(process_module, "_EXIT_GRACE_S", 0.1)
    worker(STARTED, RESULT, _HANG)
    assert await _follow(TrainingProcess(RUN, tmp_path)) == ["started", "result"]


async def test_a_bound_that_passes_while_nobody_reads_is_told_as_an_error(
    tmp_path: Path, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the queue: a slow reader gets a TrainingError, not a cancellation of its own."""
    worker(STARTED, _HANG)
    monkeypatch.setattr(process_module, "_TIME_SLACK_S", 0.5 - RUN.bounds.time_s)
    runner = TrainingProcess(RUN, tmp_path)
    with pytest.raises(TrainingError, match="beyond its time bound"):
        async for _ in runner.events():
            await asyncio.sleep(1)


async def test_a_worker_that_says_nothing_is_ended(
    tmp_path: Path, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the runs behind a hung one: it does not hold the queue to its time bound."""
    worker(_HANG)
    monkeypatch.setattr(process_module, "_silence_s", lambda _: 0.2)
    with pytest.raises(TrainingError, match="no sign of life"):
        await _follow(TrainingProcess(RUN, tmp_path))
