"""Guessed tokens: which are guessed, when, and that none changes what is answered."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.tiny_base import write_random_adapter

from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import GenerationRequest, Piece, Sampling
from viz.domain.units import AdapterId
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.prompt_lookup import FIRST_PAUSE, LONGEST_PAUSE, PromptLookup
from viz.engine.embedded.settings import EngineSettings

# Its tokens repeat, so that a model that repeats itself is guessed right.
TEXT = "tide and time, tide and time, tide and time, "


@asynccontextmanager
async def serving(base: LoadedBase, folder: Path, **changes: Any) -> AsyncIterator[EmbeddedEngine]:
    fixed: dict[str, Any] = {"max_streams": 8, "threads": 1, "compute": "native"}
    engine = await EmbeddedEngine.start(base, EngineSettings(**(fixed | changes)))
    for number in (1, 2):
        path = folder / f"{number}.safetensors"
        write_random_adapter(path, base, rank=4, seed=number)
        await engine.add_adapter(AdapterId(number), path)
    try:
        yield engine
    finally:
        await engine.close()


def asked(engine: EmbeddedEngine, adapter: int, **rules: Any) -> GenerationRequest:
    sampling = Sampling(**{"max_tokens": 120, "seed": 3, "logprobs": 2, **rules})
    return GenerationRequest("x", engine.encode(TEXT), AdapterId(adapter), sampling)


async def run(engine: EmbeddedEngine, request: GenerationRequest) -> list[Piece]:
    async with asyncio.timeout(60):
        return [piece async for piece in await engine.generate(request)]


RULES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.3},
    {"temperature": 1.0, "top_p": 0.9},
    {"max_tokens": 7},
)


@pytest.mark.compiles
async def test_guesses_change_no_token_and_no_bit(base: LoadedBase, tmp_path: Path) -> None:
    """Tokens, text, finish and log-probabilities are those without guesses, sampled ones too."""
    found: dict[bool, list[list[Piece]]] = {}
    for guesses in (False, True):
        async with serving(base, tmp_path, guesses=guesses) as engine:
            asking = [asked(engine, adapter, **rules) for adapter in (0, 1, 2) for rules in RULES]
            found[guesses] = [await run(engine, request) for request in asking]
            pairs = [asked(engine, adapter, seed=9) for adapter in (1, 2)]
            found[guesses] += await asyncio.gather(*(run(engine, each) for each in pairs))
            stats = engine.stats()
    assert found[True] == found[False]
    assert stats["right_guesses"] > 20
    assert stats["guessed_tokens"] > stats["right_guesses"], "wrong guesses were tried as well"
    assert stats["decode_steps"] < stats["generated_tokens"]


@pytest.mark.compiles
async def test_a_stop_string_within_a_guess_ends_the_answer_there(
    base: LoadedBase, tmp_path: Path
) -> None:
    """What was computed behind the end is neither delivered nor counted."""
    async with serving(base, tmp_path, guesses=False) as engine:
        text = "".join(piece.text for piece in await run(engine, asked(engine, 1)))
    for place in range(20, 60, 7):
        stop = text[place : place + 3]
        found = {}
        for guesses in (False, True):
            async with serving(base, tmp_path, guesses=guesses) as engine:
                found[guesses] = await run(engine, asked(engine, 1, stop=(stop,)))
                assert engine.stats()["running"] == 0
        assert found[True] == found[False]


@pytest.mark.compiles
async def test_guesses_keep_to_the_allowance(base: LoadedBase, tmp_path: Path) -> None:
    """No token is generated before it is paid, also where five could come at once."""
    async with serving(base, tmp_path) as engine:
        whole = await run(engine, asked(engine, 1))
        assert engine.stats()["right_guesses"] > 0
        stream = await engine.generate(asked(engine, 1))
        made: list[Piece] = []
        for allowed in range(1, len(whole) + 1):
            before = engine.stats()["generated_tokens"]
            stream.allow(allowed)
            made.append(await asyncio.wait_for(anext(stream), 60))
            assert engine.stats()["generated_tokens"] <= before + 1
        assert made == whole


async def test_the_torch_path_never_guesses(base: LoadedBase, tmp_path: Path) -> None:
    """There a row's last bit depends on how many rows are computed, and a token on that bit."""
    async with serving(base, tmp_path, compute="float32", compile=False) as engine:
        await run(engine, asked(engine, 1))
        assert engine.stats().get("guessed_tokens", 0) == 0


@pytest.mark.compiles
async def test_many_streams_are_not_guessed(base: LoadedBase, tmp_path: Path) -> None:
    """With many rows a guessed token costs as much as a right one."""
    async with serving(base, tmp_path) as engine:
        tokens = list(engine.encode(TEXT))

        def guesses(streams: int) -> list[list[int]]:
            each: Any = [
                SimpleNamespace(tokens=tokens, lookup=PromptLookup(), room=lambda: 50)
                for _ in range(streams)
            ]
            return engine._engine_loop._guesses(each)

        assert [[len(guess) for guess in guesses(streams)] for streams in (1, 2, 3)] == [
            [4],
            [1, 1],
            [],
        ]


def test_the_last_place_of_the_newest_three_is_continued() -> None:
    """The text that is quoted goes on as it did where it stood last."""
    lookup = PromptLookup()
    tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 7, 8, 1, 2, 3]
    assert lookup.guess(tokens, 4) == [6, 7, 8, 1]
    assert lookup.guess([*tokens, 6], 2) == [7, 8]
    assert lookup.guess([*tokens, 99], 4) == []
    assert PromptLookup().guess([1, 2], 4) == PromptLookup().guess(tokens, 0) == []


def test_wrong_guesses_become_ever_rarer_and_a_right_one_ends_that() -> None:
    """A text that only looks like a quotation costs little; one that becomes one is seen."""
    lookup, tokens, tried = PromptLookup(), [1, 1, 1, 1], []
    for length in range(4, 1_000):
        if lookup.guess(tokens, 4):
            tried.append(length)
            lookup.judge(length, 0)
        tokens.append(1)
    gaps = [b - a for a, b in itertools.pairwise(tried)]
    assert gaps[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert set(gaps[5:]) == {LONGEST_PAUSE}
    while not lookup.guess(tokens, 4):
        tokens.append(1)
    lookup.judge(len(tokens), 1)
    assert lookup.guess([*tokens, 1, 1], 4)
