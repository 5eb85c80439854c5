"""Who gets a slot and the memory for an adapter, and who waits: through the engine's own front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.tiny_base import write_random_adapter

from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import Generation, GenerationRequest, Sampling
from viz.domain.units import AdapterId
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.memory_plan import Widths, plan
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ModelUnavailable

WIDTHS = Widths(weight=4, cache=4, adapter=4, lanes=True)


@asynccontextmanager
async def serving(base: LoadedBase, **changes: Any) -> AsyncIterator[EmbeddedEngine]:
    fixed: dict[str, Any] = {"compute": "float32", "compile": False, "threads": 1}
    engine = await EmbeddedEngine.start(base, EngineSettings(**(fixed | changes)))
    try:
        yield engine
    finally:
        await engine.close()


async def add(
    engine: EmbeddedEngine, base: LoadedBase, folder: Path, count: int, rank: int
) -> None:
    for number in range(1, count + 1):
        path = folder / f"{number}.safetensors"
        write_random_adapter(path, base, rank=rank, seed=number)
        await engine.add_adapter(AdapterId(number), path)


async def ask(engine: EmbeddedEngine, adapter: int, tokens: int = 12) -> Generation:
    sampling = Sampling(max_tokens=tokens, temperature=1.0, seed=2)
    prompt = engine.encode("hello " * 3)
    return await engine.generate(GenerationRequest("x", prompt, AdapterId(adapter), sampling))


async def collect(stream: Generation) -> list[int]:
    async with asyncio.timeout(60):
        return [token async for piece in stream for token in piece.token_ids]


async def head(stream: Generation, tokens: int) -> list[int]:
    """Return the first tokens, which the stream's allowance ends with."""
    made: list[int] = []
    while len(made) < tokens:
        made += (await asyncio.wait_for(anext(stream), 60)).token_ids
    return made


async def test_unpaid_streams_that_wait_keep_nobody_from_a_free_slot(base: LoadedBase) -> None:
    """Streams that never paid, waiting in front, do not starve one that pays."""
    async with serving(base, max_streams=2) as engine:
        for stream in (unpaid := [await ask(engine, 0) for _ in range(3)]):
            stream.allow(0)
        assert await collect(await ask(engine, 0))
        assert engine.stats()["waiting"] == len(unpaid)


async def test_a_paused_stream_keeps_its_slot_for_the_grace_time(base: LoadedBase) -> None:
    """Who pauses briefly is not thrown out for who waits, and goes on with what is cached."""
    async with serving(base, max_streams=2, grace_s=600.0) as engine:
        whole = await collect(await ask(engine, 0))
        paused = [await ask(engine, 0) for _ in range(2)]
        for stream in paused:
            stream.allow(3)
        heads = [await head(stream, 3) for stream in paused]
        prefilled = engine.stats()["prefilled_tokens"]
        waiting = await ask(engine, 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(waiting), 0.5)
        for stream in paused:
            stream.allow(12)
        tails = [await collect(stream) for stream in paused]
        assert [h + t for h, t in zip(heads, tails, strict=True)] == [whole] * 2
        assert await collect(waiting) == whole
        assert engine.stats().get("reclaimed_slots", 0) == 0
        assert engine.stats()["prefilled_tokens"] == prefilled + len(engine.encode("hello " * 3))


async def test_waiting_adapters_do_not_evict_one_another(base: LoadedBase, tmp_path: Path) -> None:
    """Six adapters, room for two: each is loaded once for its request, not once a step."""
    async with serving(base, max_streams=2, resident_adapters=2) as engine:
        await add(engine, base, tmp_path, count=6, rank=4)
        streams = [await ask(engine, number) for number in range(1, 7)]
        assert all(await asyncio.gather(*map(collect, streams)))
        assert engine.stats()["adapter_loads"] <= 6


def smallest_memory(base: LoadedBase, settings: EngineSettings) -> int:
    """Return about the least memory in which ``max_streams`` fit."""
    for memory in range(0, 1 << 24, 1 << 14):
        try:
            if plan(base.shape, settings, WIDTHS, memory).slots == settings.max_streams:
                return memory
        except ModelUnavailable:
            continue
    raise AssertionError("the tiny model must fit")


def watched(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Return a function that tells, for each decoding step, how many adapters were worn.

    In each step, what adapters and lanes hold is compared with the plan.
    """
    decoder: Any = engine._engine_loop._decoder
    decode, store, seen = decoder.decode, engine._pool, []

    def held(*arguments: Any) -> torch.Tensor:
        logits: torch.Tensor = decode(*arguments)
        assert store.held_bytes <= store._max_bytes
        assert store._max_lane_bytes is not None
        assert decoder._lora_batch.held_bytes <= store._max_lane_bytes
        seen.append(len({adapter for _, adapter in arguments[3]}))
        return logits

    monkeypatch.setattr(decoder, "decode", held)
    return lambda: seen


async def test_adapters_in_use_never_exceed_the_memory_planned_for_them(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs memory that others use waits for it, in turn, and is then answered the same.

    Also when the one in use is paused: after its grace time its memory goes to who can run.
    """
    few = EngineSettings(max_streams=3, context_tokens=64)
    async with serving(base, max_streams=3, context_tokens=64) as engine:
        await add(engine, base, tmp_path, count=3, rank=64)
        expected = [await collect(await ask(engine, number)) for number in range(4)]
        steps = watched(engine, monkeypatch)
        await asyncio.gather(*[collect(await ask(engine, number)) for number in range(4)])
        assert max(steps()) > 1
        monkeypatch.undo()
    tight = smallest_memory(base, few)
    async with serving(
        base, max_streams=3, context_tokens=64, memory_bytes=tight, grace_s=0.01
    ) as engine:
        await add(engine, base, tmp_path, count=3, rank=64)
        steps = watched(engine, monkeypatch)
        streams = [await ask(engine, number) for number in range(4)]
        assert await asyncio.gather(*map(collect, streams)) == expected
        assert max(steps()) == 1
        # One adapter of three streams is in memory once, but takes a lane for each.
        streams = [await ask(engine, 1) for _ in range(3)]
        assert await asyncio.gather(*map(collect, streams)) == [expected[1]] * 3
        unpaid = await ask(engine, 1)
        unpaid.allow(2)
        begun = await head(unpaid, 2)
        assert await collect(await ask(engine, 2)) == expected[2]
        unpaid.allow(12)
        assert begun + await collect(unpaid) == expected[1]
