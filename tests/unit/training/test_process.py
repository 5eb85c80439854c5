"""The parent's side of a run, with real processes that misbehave: a cancel or a result is kept."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from viz.errors import TrainingCancelled, TrainingError
from viz.training import process as process_module
from viz.training import worker as worker_module
from viz.training.process import TrainingProcess
from viz.training.run import Bounds, TrainingRun, TrainingSettings, WorkInput

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
        monkeypatch.setattr(process_module, "tied", lambda *_: command)

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


async def test_threads_of_a_worker_sleep_while_they_wait(tmp_path: Path, worker: Any) -> None:
    """Protects runs beside other work: threads that spin keep the cores that the others need.

    The runtime reads the variable when torch is loaded, so it stands there from the beginning.
    """
    worker(
        "import json, os",
        'print(json.dumps({"event": "started", "spins": os.environ.get("GOMP_SPINCOUNT")}))',
        RESULT,
    )
    async with asyncio.timeout(60):
        events = [event async for event in TrainingProcess(RUN, tmp_path).events()]
    assert events[0].values == {"spins": "0"}


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


_DEAF: Final = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


async def test_a_run_that_never_goes_on_is_ended_at_once(tmp_path: Path, worker: Any) -> None:
    """Protects whoever stops an audit: it saves no step, so nothing is waited for or left."""
    worker(_DEAF, STARTED, _HANG)
    runner = TrainingProcess(RUN, tmp_path, goes_on=False)
    async with asyncio.timeout(30):  # a run that goes on has 60 s for its step
        async with contextlib.aclosing(runner.events()) as events:
            assert (await anext(events)).kind == "started"
    assert runner.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)


async def test_a_run_that_never_goes_on_keeps_its_time_bound(tmp_path: Path, worker: Any) -> None:
    """`--max-time-s` of an audit: before, two minutes more than that."""
    worker(STARTED, _HANG)
    run = replace(RUN, bounds=Bounds(time_s=1))
    with pytest.raises(TrainingError, match="used up its 1 s: allow more"):
        await _follow(TrainingProcess(run, tmp_path, goes_on=False))


@pytest.mark.parametrize(("goes_on", "number"), [(True, signal.SIGTERM), (False, signal.SIGKILL)])
async def test_a_worker_gets_the_signal_of_its_kind_when_the_parent_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool, number: signal.Signals
) -> None:
    """Protects a machine from an audit's worker whose command was killed: it saves nothing."""
    given: list[signal.Signals] = []

    def tied(command: list[str], at_death: signal.Signals) -> list[str]:
        given.append(at_death)
        return [sys.executable, "-c", RESULT]

    monkeypatch.setattr(process_module, "tied", tied)
    assert await _follow(TrainingProcess(RUN, tmp_path, goes_on=goes_on)) == ["result"]
    assert given == [number]


def test_a_full_disk_is_told_over_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log, where a traceback would stand, is on the same disk."""
    told: list[tuple[str, str]] = []

    def report(event: str, **values: Any) -> None:
        told.append((event, values["detail"]))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(worker_module, "Reporter", lambda: report)
    for name in ("load_run", "bound_memory", "Stopper"):
        monkeypatch.setattr(worker_module, name, lambda *_: RUN)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(worker_module, "train", full)
    assert worker_module.main(tmp_path) == worker_module.EXIT_FAILED
    [(event, detail)] = told
    assert event == "failed" and "free some space" in detail
