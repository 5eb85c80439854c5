"""Whatever breaks, it breaks for the one request that caused it, and the engine serves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.tiny_base import random_adapter, write_random_adapter

from viz.basemodel.adapter_file import write_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import GenerationRequest, Piece, Sampling
from viz.domain.units import AdapterId
from viz.engine.embedded import sampling
from viz.engine.embedded.backend_choice import choose_backend
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.native import build
from viz.engine.embedded.native.build import NativeUnavailable
from viz.engine.embedded.native_check import load_kernels
from viz.engine.embedded.sampling import TokenDraw
from viz.engine.embedded.sequence import Sequence
from viz.engine.embedded.settings import EngineSettings
from viz.engine.sequence import SampledToken
from viz.errors import EngineError, InvalidAdapterFile, ModelUnavailable


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


def asked(engine: EmbeddedEngine, adapter: int, seed: int | None = None) -> GenerationRequest:
    rules = Sampling(max_tokens=10, temperature=0.0 if seed is None else 1.0, seed=seed)
    return GenerationRequest(f"{adapter}", engine.encode("hello"), AdapterId(adapter), rules)


async def answer(engine: EmbeddedEngine, adapter: int) -> list[int]:
    return await tokens_of(engine, asked(engine, adapter))


async def tokens_of(engine: EmbeddedEngine, request: GenerationRequest) -> list[int]:
    made: list[int] = []
    async with asyncio.timeout(60):
        async for piece in await engine.generate(request):
            made += piece.token_ids
    return made


async def add_wild(engine: EmbeddedEngine, base: LoadedBase, folder: Path) -> None:
    """Add adapter 3: finite weights whose products overflow."""
    wild = {
        name: value * 1e25 for name, value in random_adapter(base.shape, rank=4, seed=3).items()
    }
    write_adapter(folder / "wild.safetensors", wild, rank=4, alpha=4.0, base=base.digest)
    await engine.add_adapter(AdapterId(3), folder / "wild.safetensors")


async def test_overflowing_adapter_fails_alone(
    engine: EmbeddedEngine, base: LoadedBase, tmp_path: Path
) -> None:
    """Finite weights whose products overflow end their own stream with an error, no other."""
    await add_wild(engine, base, tmp_path)
    alone = await answer(engine, 1)
    good, bad, other = await asyncio.gather(
        *(answer(engine, number) for number in (1, 3, 2)), return_exceptions=True
    )
    assert isinstance(bad, EngineError)
    assert good == alone
    assert isinstance(other, list)


async def test_what_an_overflow_left_in_a_slot_harms_nobody(
    engine: EmbeddedEngine, base: LoadedBase, tmp_path: Path
) -> None:
    """A slot's next sequence does not see its last one's NaN, also beside a longer sequence."""
    await add_wild(engine, base, tmp_path)
    alone = await answer(engine, 1)
    long = Sampling(max_tokens=200, temperature=1.0, seed=4)
    prompt = engine.encode("a long prompt " * 20)
    beside = await engine.generate(GenerationRequest("long", prompt, AdapterId(0), long))
    await anext(beside)
    with pytest.raises(EngineError, match="overflow"):
        wild_prompt = engine.encode("another long prompt " * 10)
        await tokens_of(engine, GenerationRequest("wild", wild_prompt, AdapterId(3), Sampling(4)))
    assert await answer(engine, 1) == alone
    await beside.cancel()


@pytest.mark.parametrize("step", ["prefill", "decode"])
async def test_failing_step_ends_only_its_cause(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A step that raises is run again one by one; the streams that pass go on unharmed."""
    alone = await answer(engine, 1)
    decoder: Any = engine._engine_loop._decoder
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


@pytest.mark.parametrize("place", ["choosing", "accepting"])
async def test_fault_after_the_model_ran_changes_no_other_token(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """What follows the model may fail for one stream; the others' tokens are as without it."""
    requests = [asked(engine, number % 3, seed=number) for number in range(3)]
    alone = [await tokens_of(engine, request) for request in requests]
    choice_of, accept = sampling._choice, Sequence.accept
    broken = 0

    def cannot_choose(row: torch.Tensor, best: int, draw: TokenDraw) -> SampledToken:
        nonlocal broken
        if draw.seed == 13 and draw.index == 4:
            broken += 1
            raise RuntimeError("cannot choose")
        return choice_of(row, best, draw)

    def cannot_accept(sequence: Sequence, choice: SampledToken) -> Piece:
        nonlocal broken
        if sequence.seed == 13 and sequence.generated == 4:
            broken += 1
            raise RuntimeError("cannot accept")
        return accept(sequence, choice)

    if place == "choosing":
        monkeypatch.setattr(sampling, "_choice", cannot_choose)
    else:
        monkeypatch.setattr(Sequence, "accept", cannot_accept)
    mixed = [requests[0], asked(engine, 1, seed=13), *requests[1:]]
    first, failed, *others = await asyncio.gather(
        *(tokens_of(engine, request) for request in mixed), return_exceptions=True
    )
    assert isinstance(failed, EngineError)
    assert broken == 1
    assert [first, *others] == alone
    assert engine.stats()["open"] == 0


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
    choice = choose_backend(base.shape, "float32", tmp_path / "native")
    assert choice.kernels is None
    compiler.unlink()
    assert "no C++ compiler" in choose_backend(base.shape, "auto", tmp_path / "native").reason
    with pytest.raises(ModelUnavailable):
        choose_backend(base.shape, "native", None)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexec /bin/sleep 60\n", "timed out"),
        ("#!/nowhere/sh\n", "build failed"),
        ("#!/bin/sh\nprintf '\\377\\376'\nprintf '\\377\\376' >&2\nexit 1\n", "failed"),
    ],
    ids=["hangs", "cannot be run", "prints no UTF-8"],
)
def test_a_strange_compiler_does_not_stop_the_start(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """Also what goes wrong before the build, when the compiler is asked who it is."""
    compiler = tmp_path / "g++"
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "_VERSION_TIMEOUT_S", 1)
    choice = choose_backend(base.shape, "float32", tmp_path / "native")
    assert choice.kernels is None
    assert reason in choice.reason
