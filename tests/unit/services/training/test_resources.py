"""Where a run trains: a real device by itself, memory that is there, and one run on each device."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny_base import make_tiny_directory
from tests.unit.services.training.test_checks import place

from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.work import Work, parse_work
from viz.errors import InvalidRequest
from viz.services.training import resources
from viz.services.training.checks import TrainingCheck
from viz.services.training.resources import DeviceTurns, TrainingResources, as_requested
from viz.training import devices
from viz.training.devices import CudaDevice
from viz.training.environment import reproducibility_class
from viz.training.process import TrainingProcess
from viz.training.run import Bounds, TrainingRun, TrainingSettings

GIB = 1 << 30


def have(monkeypatch: pytest.MonkeyPatch, count: int, *, free: int = 80 * GIB) -> None:
    """Let this machine have so many CUDA devices."""
    found = tuple(CudaDevice(n, "card", free, 80 * GIB, 1e-14) for n in range(count))
    monkeypatch.setattr(devices, "cuda_count", lambda: count)
    monkeypatch.setattr(resources, "cuda_count", lambda: count)
    monkeypatch.setattr(resources, "cuda_devices", lambda: found)


@pytest.mark.parametrize(("count", "device", "weights"), [(0, "cpu", ""), (2, "cuda", "nf4")])
async def test_a_run_takes_the_device_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, device: str, weights: str
) -> None:
    """No manifest says "auto"; what a GPU needs follows from the device."""
    have(monkeypatch, count)
    made, request, _ = place(tmp_path, 'text = "Do."')
    check = TrainingCheck(made._reader, made._trainer, 1, resources=TrainingResources("auto"))
    settings = (await check.check(request, licensed=True)).settings
    assert settings.device == device
    assert settings.weights == (weights or TrainingSettings().weights)
    assert settings.optimizer == ("paged_adamw" if count else "adamw")
    kept = as_requested(request, settings)
    assert kept["settings"] == request["settings"] | {"device": device, "recompute": False}
    # Its own choice holds, and a request that names no real device is settled too.
    request["settings"] |= {"device": "cpu"}
    assert (await check.check(request, licensed=True)).settings.device == "cpu"
    request["settings"] |= {"device": "auto"}
    assert (await check.check(request, licensed=True)).settings.device == device


async def test_a_device_that_is_not_here_is_refused_when_a_run_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 1)
    check, request, _ = place(tmp_path, 'text = "Do."')
    request["settings"] |= {"device": "cuda:3"}
    with pytest.raises(InvalidRequest, match=r"cuda:3 is not here .*1 CUDA"):
        await check.check(request, licensed=True)


def _works() -> list[Work]:
    raw = Path("examples/works/varn-point/work.jsonl").read_bytes()
    return [parse_work("dialogue", raw)]


def test_memory_is_judged_before_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that does not fit is refused at once, and one that would fit computes twice."""
    base = str(make_tiny_directory(tmp_path / "tiny", num_hidden_layers=8, intermediate_size=4_096))
    works, settings = _works(), TrainingSettings()

    def settle(memory: int, **chosen: Any) -> tuple[TrainingSettings, Any]:
        bounds = Bounds(memory_bytes=memory)
        held = TrainingResources("cpu", bounds, tmp_path / "cache")
        return held.fit(works, settings, chosen, base_model=base)

    settled, whole = settle(8 * GIB)
    assert whole is not None and not settled.recompute and not whole.device
    tight, less = settle(whole.host_bytes - 1)
    assert tight.recompute and less.host_bytes < whole.host_bytes
    with pytest.raises(InvalidRequest, match=r"training\.max_memory_mib allows"):
        settle(whole.host_bytes - 1, recompute=False)
    with pytest.raises(InvalidRequest, match=r"training\.max_memory_mib allows"):
        settle(whole.host_bytes // 4)
    on_cuda = TrainingSettings(device="cuda", weights="nf4", optimizer="paged_adamw")
    have(monkeypatch, 1, free=GIB // 4)
    roomy = TrainingResources("auto", Bounds(), tmp_path / "cache")
    with pytest.raises(InvalidRequest, match="on its device, where 256 are free"):
        roomy.fit(works, on_cuda, {}, base_model=base)
    have(monkeypatch, 2)
    assert roomy.fit(works, on_cuda, {}, base_model=base, cuda_index=1)[1] is not None


def test_nothing_is_refused_where_the_base_is_not_at_hand(tmp_path: Path) -> None:
    """A base that is converted at its first use has no architecture to read yet."""
    held = TrainingResources("cpu", Bounds(memory_bytes=1), tmp_path)
    assert held.fit(_works(), TrainingSettings(), {}, base_model=DEFAULT_BASE) == (
        TrainingSettings(),
        None,
    )


async def _holders(turns: DeviceTurns, wanted: list[str]) -> list[Any]:
    """Take a device for each of ``wanted``; return those that all but one of them got at once."""
    got: asyncio.Queue[int | None] = asyncio.Queue()
    end = asyncio.Event()

    async def hold(device: str) -> None:
        async with turns.take(device) as index:
            got.put_nowait(index)
            await end.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for device in wanted:
            group.create_task(hold(device))
        at_once = [await got.get() for _ in wanted[1:]]
        await asyncio.sleep(0.05)
        assert got.empty(), "two runs have one device"
        end.set()
        await got.get()  # who waited is served
    return at_once


async def test_each_device_has_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs and the CPU take three runs; a further one waits for a free device."""
    have(monkeypatch, 2)
    turns = DeviceTurns()
    assert sorted(await _holders(turns, ["cuda", "cuda", "cuda"])) == [0, 1]
    assert await _holders(turns, ["cpu", "cpu"]) == [None]
    assert set(await _holders(turns, ["cuda:1", "cuda", "cpu", "cuda"])) == {0, 1, None}


@pytest.mark.parametrize(
    ("device", "visible", "told"),
    [("cuda", "", "1"), ("cuda", "4,7", "7"), ("cuda:1", "4,7", "4,7"), ("cpu", "", "")],
)
def test_a_run_on_any_device_sees_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, visible: str, told: str
) -> None:
    """Its manifest says "cuda", which an auditor with one card can repeat."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run = TrainingRun("one", (), TrainingSettings(device=device), "none", tmp_path)
    assert (
        TrainingProcess(run, tmp_path, cuda_index=1)._environment()["CUDA_VISIBLE_DEVICES"] == told
    )


def test_the_class_of_a_run_is_its_device_s() -> None:
    """A manifest of a GPU does not claim what only processors were shown to do."""
    assert reproducibility_class("cpu") == "bitwise-same-cpu-class"
    assert reproducibility_class("cuda:1") == reproducibility_class("cuda")
    assert reproducibility_class("cuda") != reproducibility_class("cpu")
