"""Whatever breaks, it breaks for the one request that caused it, and the engine serves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.tiny_base import make_tiny_base, random_adapter, write_random_adapter

from viz.basemodel.adapter_file import write_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.ports import GenerationRequest, Sampling
from viz.domain.units import AdapterId
from viz.engine.compute import choose_compute
from viz.engine.embedded import EmbeddedEngine
from viz.engine.limits import Widths, plan
from viz.engine.native import NativeUnavailable, load_kernels
from viz.engine.settings import EngineSettings
from viz.errors import EngineError, InvalidAdapterFile, ModelUnavailable

WIDTHS = Widths(weight=4, cache=4, adapter=4, lanes=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(base: LoadedBase, tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
    settings = EngineSettings(
        max_streams=4, resident_adapters=4, compute="float32", compile=False, threads=1
    )
    started = await EmbeddedEngine.start(base, settings)
    for number in (1, 2):
        path = tmp_path / f"{number}.safetensors"
        write_random_adapter(path, base, rank=4, seed=number)
        await started.add_adapter(AdapterId(number), path)
    yield started
    await started.close()


async def answer(engine: EmbeddedEngine, adapter: int) -> list[int]:
    request = GenerationRequest(
        f"{adapter}", engine.encode("hello"), AdapterId(adapter), Sampling(max_tokens=10)
    )
    made: list[int] = []
    async with asyncio.timeout(60):
        async for piece in await engine.generate(request):
            made += piece.token_ids
    return made


async def test_overflowing_adapter_fails_alone(
    engine: EmbeddedEngine, base: LoadedBase, tmp_path: Path
) -> None:
    """Finite weights whose products overflow end their own stream with an error, no other."""
    wild = {
        name: value * 1e25 for name, value in random_adapter(base.shape, rank=4, seed=3).items()
    }
    write_adapter(tmp_path / "wild.safetensors", wild, rank=4, alpha=4.0, base=base.digest)
    await engine.add_adapter(AdapterId(3), tmp_path / "wild.safetensors")
    alone = await answer(engine, 1)
    good, bad, other = await asyncio.gather(
        *(answer(engine, number) for number in (1, 3, 2)), return_exceptions=True
    )
    assert isinstance(bad, EngineError)
    assert good == alone
    assert isinstance(other, list)


@pytest.mark.parametrize("step", ["prefill", "decode"])
async def test_failing_step_ends_only_its_cause(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A step that raises is run again one by one; the streams that pass go on unharmed."""
    alone = await answer(engine, 1)
    decoder: Any = engine._runner._decoder
    sound = getattr(decoder, step)

    def breaks_on_second_adapter(*arguments: Any) -> torch.Tensor:
        worn = (
            [chunk.adapter for chunk in arguments[0]]
            if step == "prefill"
            else [adapter for _, adapter in arguments[3]]
        )
        if any(adapter is not None and adapter.adapter_id == 2 for adapter in worn):
            raise RuntimeError("cannot multiply")
        logits: torch.Tensor = sound(*arguments)
        return logits

    monkeypatch.setattr(decoder, step, breaks_on_second_adapter)
    first, second, again = await asyncio.gather(
        answer(engine, 1), answer(engine, 2), answer(engine, 1), return_exceptions=True
    )
    assert isinstance(second, EngineError)
    assert first == again == alone
    monkeypatch.undo()
    assert await answer(engine, 2)


async def test_adapter_file_that_vanished_or_changed_fails_its_requests(
    engine: EmbeddedEngine, base: LoadedBase, tmp_path: Path
) -> None:
    """An evicted adapter whose file is no longer what was registered is not served."""
    await answer(engine, 1)
    (tmp_path / "1.safetensors").unlink()
    write_random_adapter(tmp_path / "2.safetensors", base, rank=4, seed=9)
    for number in range(10, 14):
        path = tmp_path / f"{number}.safetensors"
        write_random_adapter(path, base, rank=4, seed=number)
        await engine.add_adapter(AdapterId(number), path)
    for number in (1, 2):
        with pytest.raises(InvalidAdapterFile):
            await answer(engine, number)
    assert await answer(engine, 10)


async def test_lost_stream_frees_its_place(engine: EmbeddedEngine) -> None:
    """A stream that its caller dropped without cancelling does not hold a slot for ever."""
    prompt = engine.encode("hello")
    request = GenerationRequest("lost", prompt, AdapterId(1), Sampling(max_tokens=400))
    stream = await engine.generate(request)
    stream.allow(2)
    await anext(stream)
    del stream
    # Its slot is free again once four others can run to their end beside each other.
    assert all(await asyncio.gather(*(answer(engine, 1) for _ in range(4))))
    assert engine.stats()["open"] == 0


async def test_close_ends_running_streams(base: LoadedBase) -> None:
    """Nobody waits for ever on an engine that was closed."""
    engine = await EmbeddedEngine.start(
        base, EngineSettings(max_streams=1, compute="float32", compile=False)
    )
    request = GenerationRequest(
        "x", engine.encode("hello"), AdapterId(0), Sampling(max_tokens=400, temperature=1.0)
    )
    streams = [await engine.generate(request) for _ in range(3)]
    await engine.close()
    await engine.close()
    for stream in streams:
        async with asyncio.timeout(60):
            try:
                assert [piece async for piece in stream][-1].finish_reason == "cancelled"
            except EngineError as error:
                assert "closed" in str(error)


def test_memory_plan_refuses_what_does_not_fit(base: LoadedBase) -> None:
    """Too little memory is a clear refusal at start; little memory is fewer streams."""
    settings = EngineSettings(max_streams=32, context_tokens=512)
    with pytest.raises(ModelUnavailable, match="MiB"):
        plan(base.shape, settings, WIDTHS, 1 << 18)
    assert 1 <= plan(base.shape, settings, WIDTHS, 4 << 20).slots < 32
    assert plan(base.shape, settings, WIDTHS, 1 << 30).slots == 32


def test_failed_compilation_leaves_the_torch_path(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that fails, or none at all, is a reason in the log and not a failed start."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeUnavailable, match="failed"):
        load_kernels(tmp_path / "native", 1)
    choice = choose_compute(base.shape, "float32", tmp_path / "native")
    assert choice.kernels is None
    compiler.unlink()
    assert "no C++ compiler" in choose_compute(base.shape, "auto", tmp_path / "native").reason
    with pytest.raises(ModelUnavailable):
        choose_compute(base.shape, "native", None)
