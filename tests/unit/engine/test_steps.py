"""What a step may and may not do: cancelled streams, paused streams, and what is said at start."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import GenerationRequest, Sampling
from viz.domain.units import AdapterId
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings


@pytest.fixture
async def engine(base: LoadedBase) -> AsyncIterator[EmbeddedEngine]:
    settings = EngineSettings(max_streams=2, compute="float32", compile=False, threads=1)
    started = await EmbeddedEngine.start(base, settings)
    yield started
    await started.close()


def asked(engine: EmbeddedEngine, tokens: int) -> GenerationRequest:
    sampling = Sampling(max_tokens=tokens, temperature=1.0, seed=2)
    return GenerationRequest("x", engine.encode("hello " * 9), AdapterId(0), sampling)


async def test_cancel_ends_within_the_step_that_runs(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cancel, the step under way is the stream's last: no other is begun for it."""
    decoder: Any = engine._engine_loop._decoder
    decode, running, go_on = decoder.decode, threading.Event(), threading.Event()
    begun = 0

    def held(*arguments: Any) -> torch.Tensor:
        nonlocal begun
        begun += 1
        running.set()
        assert go_on.wait(60)
        logits: torch.Tensor = decode(*arguments)
        return logits

    monkeypatch.setattr(decoder, "decode", held)
    stream = await engine.generate(asked(engine, 400))
    assert await asyncio.to_thread(running.wait, 60)
    cancelling = asyncio.create_task(stream.cancel())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait_for(cancelling, 60)
    assert begun == 1
    assert engine.stats()["running"] == 0


async def test_pausing_keeps_the_cache(engine: EmbeddedEngine) -> None:
    """A stream that is allowed on where it kept its slot prefills nothing again."""
    request = asked(engine, 30)
    prompt = len(request.prompt)
    stream = await engine.generate(request)
    stream.allow(3)
    made = [(await asyncio.wait_for(anext(stream), 60)).token_ids for _ in range(3)]
    stream.allow(30)
    async with asyncio.timeout(60):
        made += [piece.token_ids async for piece in stream]
    assert engine.stats()["prefilled_tokens"] == prompt
    assert engine.stats().get("reclaimed_slots", 0) == 0
    again = await engine.generate(request)
    async with asyncio.timeout(60):
        assert [piece.token_ids async for piece in again] == made


async def test_a_long_prompt_does_not_stall_the_streams(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt is prefilled in bounded pieces, and running streams decode between any two."""
    settings = EngineSettings(
        max_streams=2,
        compute="float32",
        compile=False,
        threads=1,
        prefill_tokens=16,
        buffer_tokens=400,
    )
    engine = await EmbeddedEngine.start(base, settings)
    decoder: Any = engine._engine_loop._decoder
    prefill, decode = decoder.prefill, decoder.decode
    done: list[str | int] = []

    def prefilling(chunks: Any, wanted: Any) -> torch.Tensor:
        done.append(sum(len(chunk.tokens) for chunk in chunks))
        logits: torch.Tensor = prefill(chunks, wanted)
        return logits

    def decoding(*arguments: Any) -> torch.Tensor:
        done.append("decode")
        logits: torch.Tensor = decode(*arguments)
        return logits

    running = await engine.generate(asked(engine, 400))
    running.allow(1)
    await asyncio.wait_for(anext(running), 60)
    monkeypatch.setattr(decoder, "prefill", prefilling)
    monkeypatch.setattr(decoder, "decode", decoding)
    long = GenerationRequest("y", engine.encode("x" * 200), AdapterId(0), Sampling(max_tokens=1))
    joining = await engine.generate(long)
    running.allow(400)
    async with asyncio.timeout(60):
        assert [piece async for piece in joining]
    await engine.close()
    places = [place for place, what in enumerate(done) if what != "decode"]
    assert [done[place] for place in places] == [16] * 12 + [8]
    assert all("decode" in done[at:to] for at, to in itertools.pairwise(places))


@pytest.mark.compiles
async def test_the_choice_is_said_at_start(base: LoadedBase) -> None:
    """An operator reads what serves, why, and under which key the build is kept."""
    with capture_logs() as lines:
        engine = await EmbeddedEngine.start(base, EngineSettings(max_streams=1, threads=1))
        await engine.close()
    (said,) = (line for line in lines if line["event"] == "engine starts")
    assert f"compute_{said['compute']}" in engine.stats()
    assert said["reason"].startswith("compiled as kernels-")
