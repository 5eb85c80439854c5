"""What one buyer of an idle node waits for: the next turn of a chat."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.engine_parts.material import Material

SHARED_TOKENS = 1_500
_SYSTEM = "The harbour has {} piers, and at pier {} lies a boat with {} oars. "
_QUESTIONS = ("How many oars has the boat at the last pier?", "Which pier has most boats, and why?")


async def prefix_part(material: Material, threads: int, rounds: int) -> None:
    """Print the first token of a chat and of the next that shares 1,500 tokens, by turns."""
    from viz.domain.ports.engine import GenerationRequest, Sampling
    from viz.domain.units import AdapterId

    async with _engine(material, threads) as engine:
        text = "".join(_SYSTEM.format(n, n + 1, n + 2) for n in range(200))
        shared = engine.encode(text)[:SHARED_TOKENS]
        taken: dict[str, list[float]] = {"first": [], "second": []}
        for _ in range(rounds):
            key = secrets.token_hex(8)
            for name, question in zip(taken, _QUESTIONS, strict=True):
                ids = shared + engine.encode(question)
                request = GenerationRequest(name, ids, AdapterId(1), Sampling(max_tokens=8), key)
                began = time.perf_counter()
                stream = await engine.generate(request)
                await anext(stream)
                taken[name].append(time.perf_counter() - began)
                async for _piece in stream:
                    pass
        reused = engine.stats()["reused_tokens"] / rounds
    first, second = (statistics.median(values) for values in taken.values())
    ratio = statistics.median(b / a for a, b in zip(*taken.values(), strict=True))
    print(
        f"\na chat of {SHARED_TOKENS} tokens and a question, first token: {first * 1e3:.0f} ms; "
        f"the next with the same beginning {second * 1e3:.0f} ms, {reused:.0f} tokens reused: "
        f"{ratio:.3f} (goal: at most 0.15; {rounds} rounds)",
        flush=True,
    )


@asynccontextmanager
async def _engine(material: Material, threads: int) -> AsyncIterator[Any]:
    from viz.domain.units import AdapterId
    from viz.engine.embedded.engine import EmbeddedEngine
    from viz.engine.embedded.settings import EngineSettings

    engine = await EmbeddedEngine.start(material.base, EngineSettings(threads=threads))
    await engine.add_adapter(AdapterId(1), material.adapter(1))
    try:
        yield engine
    finally:
        await engine.close()
