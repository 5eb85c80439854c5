"""The worker as a process: it repeats itself, resumes exactly, stops, and says what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.source import LoadedBase
from viz.errors import (
    CommitmentMismatch,
    InvalidWork,
    TrainingCancelled,
    TrainingError,
    TrainingWorkerDied,
)
from viz.training import process as process_module
from viz.training.process import TrainingEvent, TrainingProcess
from viz.training.run import TrainingRun


async def _finish(run: TrainingRun, directory: Path) -> list[TrainingEvent]:
    return [event async for event in TrainingProcess(run, directory).events()]


def _digest(events: list[TrainingEvent]) -> str:
    return str(events[-1].values["metrics"]["weightsDigest"])


async def test_a_run_teaches_and_leaves_a_servable_file(
    make_run: Any, tmp_path: Path, tiny: LoadedBase
) -> None:
    """The file loads in the engine's reader, the loss fell, everything measured is reported."""
    events = await _finish(make_run(), tmp_path / "run")
    kinds = [event.kind for event in events]
    assert kinds[0] == "started"
    assert kinds.count("step") == 8
    metrics = events[-1].values["metrics"]
    assert metrics["heldOut"]["after"]["loss"] < metrics["heldOut"]["before"]["loss"]
    asked = [metrics["memorisation"]["adapter"][kind] for kind in ("probes", "passages")]
    assert asked == [3, 3]
    adapter = read_adapter(tmp_path / "run/adapter.safetensors", tiny.shape, tiny.digest)
    assert adapter.header.rank == 4
    assert (tmp_path / "run/dataset.jsonl").stat().st_size


async def test_a_killed_run_resumes_to_the_same_bytes(make_run: Any, tmp_path: Path) -> None:
    """kill -9 between checkpoints costs time, not the adapter's identity."""
    unbroken = await _finish(make_run(), tmp_path / "unbroken")
    runner = TrainingProcess(make_run(), tmp_path / "broken")
    with pytest.raises(TrainingWorkerDied):
        async for event in runner.events():
            if event.kind == "step" and event.values["step"] == 5:
                assert runner.pid is not None
                os.kill(runner.pid, signal.SIGKILL)
    resumed = await _finish(make_run(), tmp_path / "broken")
    assert resumed[0].values["resumed"] is True
    assert resumed[0].values["step"] >= 4
    assert _digest(resumed) == _digest(unbroken)
    bytes_of = [(tmp_path / n / "adapter.safetensors").read_bytes() for n in ("unbroken", "broken")]
    assert bytes_of[0] == bytes_of[1]


# Some ten workers, each with the imports of its start, which a busy machine slows most.
@pytest.mark.timeout(900)
async def test_a_run_that_is_stopped_again_and_again_ends_in_the_same_bytes(
    make_run: Any, tmp_path: Path
) -> None:
    """A node that is restarted every few minutes ends its runs at last, and loses no step.

    One life of the worker ends after five steps, each later one with a batch of questions, left as
    a stopped node leaves it; nothing that was told of is made again. A step that the worker ended
    while it was being stopped is kept, though nobody was there to be told.
    """
    run = make_run(checkpoint_every=10_000)
    unbroken = await _finish(run, tmp_path / "unbroken")
    made: list[int] = []
    asked = 0
    for _ in range(40):
        events = TrainingProcess(run, tmp_path / "broken").events()
        last = None
        async with contextlib.aclosing(events):
            async for last in events:
                if last.kind == "step":
                    made.append(last.values["step"])
                    if len(made) == 5:
                        break
                if last.kind == "measuring":
                    asked += 1
                    break
        if last is not None and last.kind == "result":
            break
    else:
        pytest.fail("the run never ended")
    assert (
        made[:5] == [1, 2, 3, 4, 5] and made == sorted(set(made)) and set(range(7, 9)) <= set(made)
    )
    assert asked and _digest([last]) == _digest(unbroken)
    bytes_of = [(tmp_path / n / "adapter.safetensors").read_bytes() for n in ("unbroken", "broken")]
    assert bytes_of[0] == bytes_of[1]
    told, whole = last.values["metrics"], unbroken[-1].values["metrics"]
    for measured in ("heldOut", "recall", "general", "curve", "memorisation"):
        assert told[measured] == whole[measured]


async def test_a_checkpoint_is_due_by_time_too(make_run: Any, tmp_path: Path) -> None:
    """Steps of a large work take long: a kill costs a minute of them, however many it wants."""
    run = make_run(checkpoint_every=10_000, checkpoint_s=0.0, evaluate_every=10_000)
    kinds = [event.kind for event in await _finish(run, tmp_path / "run")]
    assert kinds.count("checkpoint") >= kinds.count("step") == 8
    first = kinds.index("step")
    assert kinds[first - 1] == "checkpoint"  # on the disk before it is told


async def test_a_worker_that_hangs_is_ended(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process cannot check its own time bound: the parent does, and leaves none."""
    monkeypatch.setattr(process_module, "_TIME_SLACK_S", -3_580.0)  # the worker's own never ends
    runner = TrainingProcess(
        make_run(steps=5_000, checkpoint_every=10_000, time_s=3_600), tmp_path / "run"
    )
    with pytest.raises(TrainingError, match="hung beyond its time bound"):
        async for _ in runner.events():
            assert runner.pid is not None
            os.kill(runner.pid, signal.SIGSTOP)
    assert runner.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)


async def test_cancel_keeps_a_checkpoint(make_run: Any, tmp_path: Path) -> None:
    """A cancelled run stops between two steps and can go on later."""
    runner = TrainingProcess(make_run(steps=5_000, checkpoint_every=10_000), tmp_path / "run")
    with pytest.raises(TrainingCancelled):
        async for event in runner.events():
            if event.kind == "step":
                asyncio.get_running_loop().create_task(runner.cancel())
    assert (tmp_path / "run/checkpoint/state.safetensors").exists()
    assert not (tmp_path / "run/adapter.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"memory_bytes": 1024**2}, TrainingError, "memory"),
        ({"time_s": 0}, TrainingError, "time bound"),
        ({"max_row_tokens": 32}, InvalidWork, "split it"),
        ({"device": "cuda:99"}, TrainingError, "device is cuda:99"),
    ],
)
async def test_bounds_and_bad_settings_end_a_run_with_their_reason(
    make_run: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Whatever stops a worker, the parent learns why."""
    with pytest.raises(error, match=says):
        await _finish(make_run(**changes), tmp_path / "run")


async def test_a_work_that_is_not_the_registered_one_is_refused(
    make_run: Any, tmp_path: Path
) -> None:
    """The worker checks the commitment itself, after the parent did."""
    run = make_run()
    other = replace(run, works=(replace(run.works[0], salt="0x" + "09" * 32),))
    with pytest.raises(CommitmentMismatch):
        await _finish(other, tmp_path / "run")


async def test_a_checkpoint_of_another_run_is_refused(make_run: Any, tmp_path: Path) -> None:
    """Resuming with other settings is an error, not a silent mixture."""
    await _finish(make_run(steps=2, warmup_steps=1), tmp_path / "run")
    with pytest.raises(TrainingError, match="another recipe"):
        await _finish(make_run(steps=2, warmup_steps=1, rank=8), tmp_path / "run")


async def test_the_worker_sees_no_secret_of_the_parent(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and passwords in the node's environment stay there."""
    monkeypatch.setenv("VIZ_KEY_PASSWORD", "hush")
    environment = TrainingProcess(make_run(), tmp_path)._environment()
    assert "hush" not in environment.values()
