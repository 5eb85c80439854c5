"""What one buyer of an idle node waits for: the next turn of a chat, and one stream's tokens."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from benchmarks.engine_parts.material import Material

SHARED_TOKENS = 1_500
_SYSTEM = "The harbour has {} piers, and at pier {} lies a boat with {} oars. "
_QUESTIONS = ("How many oars has the boat at the last pier?", "Which pier has most boats, and why?")
_ANSWER_TOKENS = 128
_PASSAGES = (
    "The harbour master keeps a book. In it he writes each boat that leaves before dawn, who rows "
    "it, how many nets it carries, and when it came back. Nobody else may write in it, and on the "
    "last day of the year he reads all of it aloud on the long pier.",
    "Members may borrow two tools at a time, for a week. A tool that is broken is paid for by "
    "whoever had it, unless it was broken before. The shed is open on Tuesdays from four to seven, "
    "and on Saturdays from nine to noon; in August it is closed.",
    "To dye the wool, boil the bark in rain water for an hour and let it stand overnight. Wet the "
    "wool first, or the colour will be uneven. Keep it below the surface with a stone, and turn it "
    "twice before the water is cold.",
)
_QUOTING = tuple(
    f"Repeat the following text word for word, and add nothing.\n\n{each}" for each in _PASSAGES
)
_ELSEWHERE = (
    "Why is the sky blue in the day and red in the evening?",
    "Write a short letter to a friend about a rainy week by the sea.",
    "Explain to a child how a sailing boat moves against the wind.",
    "Which three habits help somebody to learn a language, and why?",
)


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


async def guesses_part(material: Material, threads: int, rounds: int) -> None:
    """Print one stream's tokens/s with guessed tokens against without, by turns."""
    from viz.basemodel.source import load_base

    # The material's base never ends an answer, and goes on to something else after a quotation.
    base = load_base(cache_dir=material.base.serving_file.parents[1])
    material = replace(material, base=base)
    asked = {"quote the prompt": _QUOTING, "do not": _ELSEWHERE}
    ratios: dict[str, list[float]] = {name: [] for name in asked}
    right: dict[str, list[float]] = {name: [] for name in asked}
    async with (
        _engine(material, threads) as guessing,
        _engine(material, threads, guesses=False) as plain,
    ):
        for _ in range(rounds):
            for name, texts in asked.items():
                for text in texts:
                    before = guessing.stats().get("right_guesses", 0)
                    (fast, told), (slow, same) = [
                        await _answer(engine, text) for engine in (guessing, plain)
                    ]
                    assert told == same, "a guess changed an answer"
                    ratios[name].append(fast / slow)
                    right[name].append(
                        (guessing.stats().get("right_guesses", 0) - before) / len(told)
                    )
    print(f"\none stream of at most {_ANSWER_TOKENS} tokens, with guesses against without:")
    for name, goal in (("quote the prompt", 1.3), ("do not", 0.98)):
        values, share = ratios[name], statistics.mean(right[name])
        print(
            f"  answers that {name}: {statistics.median(values):.2f} ({min(values):.2f} to "
            f"{max(values):.2f}; goal: at least {goal}), {share:.0%} of tokens guessed right",
            flush=True,
        )


async def _answer(engine: Any, text: str) -> tuple[float, tuple[int, ...]]:
    """Return tokens/s after the first token, and the tokens."""
    from viz.domain.ports.engine import GenerationRequest, Sampling
    from viz.domain.units import BASE_MODEL

    prompt = engine.render([{"role": "user", "content": text}])
    sampling = Sampling(max_tokens=_ANSWER_TOKENS)
    stream = await engine.generate(GenerationRequest("x", prompt, BASE_MODEL, sampling))
    tokens = list((await anext(stream)).token_ids)
    began = time.perf_counter()
    async for piece in stream:
        tokens += piece.token_ids
    return (len(tokens) - 1) / (time.perf_counter() - began), tuple(tokens)


@asynccontextmanager
async def _engine(material: Material, threads: int, **changes: Any) -> AsyncIterator[Any]:
    from viz.domain.units import AdapterId
    from viz.engine.embedded.engine import EmbeddedEngine
    from viz.engine.embedded.settings import EngineSettings

    engine = await EmbeddedEngine.start(material.base, EngineSettings(threads=threads, **changes))
    await engine.add_adapter(AdapterId(1), material.adapter(1))
    try:
        yield engine
    finally:
        await engine.close()
