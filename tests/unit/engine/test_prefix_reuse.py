"""What an ended sequence computed is used again: for whom, how much, and with which tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny_base import write_random_adapter

from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import GenerationRequest, Sampling
from viz.domain.units import AdapterId
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.prefix_cache import shared_length
from viz.engine.embedded.settings import EngineSettings

SYSTEM = "You are the keeper of the light. Answer in one sentence, and name the hour. " * 3


async def start(base: LoadedBase, compute: str, folder: Path, **changes: Any) -> EmbeddedEngine:
    fixed: dict[str, Any] = {"max_streams": 4, "threads": 1, "compute": compute}
    fixed["compile"] = compute == "native"
    engine = await EmbeddedEngine.start(base, EngineSettings(**(fixed | changes)))
    for number in (1, 2):
        path = folder / f"{number}.safetensors"
        write_random_adapter(path, base, rank=4, seed=number)
        await engine.add_adapter(AdapterId(number), path)
    return engine


@pytest.fixture(params=["float32", pytest.param("native", marks=pytest.mark.compiles)])
async def engine(
    base: LoadedBase, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[EmbeddedEngine]:
    started = await start(base, request.param, tmp_path)
    yield started
    await started.close()


def chat(
    engine: EmbeddedEngine,
    text: str,
    *,
    key: str = "buyer",
    adapter: int = 1,
    system: str = SYSTEM,
    **rules: Any,
) -> GenerationRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    sampling = Sampling(**{"max_tokens": 12, "temperature": 1.0, "seed": 5, **rules})
    return GenerationRequest("x", engine.render(messages), AdapterId(adapter), sampling, key)


async def run(engine: EmbeddedEngine, request: GenerationRequest) -> list[tuple[int, float]]:
    """Return the tokens of an answer with their log-probabilities."""
    found = []
    async with asyncio.timeout(60):
        async for piece in await engine.generate(request):
            found += [(each.token_id, each.logprob) for each in piece.logprobs]
    return found


def counted(engine: EmbeddedEngine, name: str) -> float:
    return engine.stats().get(name, 0.0)


async def test_a_shared_beginning_is_computed_once_and_changes_nothing(
    engine: EmbeddedEngine,
) -> None:
    """The second chat of a signer computes what is new in it; its tokens are those without reuse.

    On the compiled path bit for bit; torch's library sums chunks of another size in another order.
    """
    first, second = (chat(engine, text, logprobs=0) for text in ("Who rows?", "What is lit?"))
    await run(engine, first)
    before = counted(engine, "prefilled_tokens")
    found = await run(engine, second)
    shared = shared_length(list(first.prompt), list(second.prompt))
    assert shared > 150
    assert counted(engine, "reused_tokens") == shared
    assert counted(engine, "prefilled_tokens") - before == len(second.prompt) - shared
    plain = await run(engine, chat(engine, "What is lit?", logprobs=0, key=""))
    assert [token for token, _ in found] == [token for token, _ in plain]
    exact = 0.0 if "compute_native_float32" in engine.stats() else 1e-4
    assert all(abs(a - b) <= exact for (_, a), (_, b) in zip(found, plain, strict=True))


async def test_a_chat_that_goes_on_reuses_its_answer_too(engine: EmbeddedEngine) -> None:
    """The next turn's prompt holds the answer before it, whose keys and values are there."""
    first = chat(engine, "Who rows?", max_tokens=20)
    pieces = [piece async for piece in await engine.generate(first)]
    answer = tuple(token for piece in pieces for token in piece.token_ids)
    assert len(answer) > 4
    onward = GenerationRequest(
        "y", (*first.prompt, *answer, 7, 8, 9), AdapterId(1), first.sampling, "buyer"
    )
    await run(engine, onward)
    # The last token of an answer is never run.
    assert counted(engine, "reused_tokens") == len(first.prompt) + len(answer) - 1


@pytest.mark.parametrize("change", [{"key": "another"}, {"key": ""}, {"adapter": 2}])
async def test_nothing_is_reused_for_another_buyer_or_adapter(
    engine: EmbeddedEngine, change: dict[str, Any]
) -> None:
    """The time to a first token tells nobody what another signer asked."""
    await run(engine, chat(engine, "Who rows?"))
    await run(engine, chat(engine, "Who rows?", **change))
    assert counted(engine, "reused_tokens") == 0


async def test_an_adapter_that_changed_reuses_nothing(
    engine: EmbeddedEngine, base: LoadedBase, tmp_path: Path
) -> None:
    """What an adapter's old file computed is not the new file's: an id may be registered again."""
    await run(engine, chat(engine, "Who rows?"))
    path = tmp_path / "newer.safetensors"
    write_random_adapter(path, base, rank=4, seed=77)
    await engine.remove_adapter(AdapterId(1))
    await engine.add_adapter(AdapterId(1), path)
    found = await run(engine, chat(engine, "Who rows?", logprobs=0))
    assert counted(engine, "reused_tokens") == 0
    assert found == await run(engine, chat(engine, "Who rows?", logprobs=0, key=""))


async def test_streams_at_once_share_a_beginning_and_then_nothing(engine: EmbeddedEngine) -> None:
    """A stream that runs is a source as well, and what others append is not seen by it."""
    texts = ["Who rows?", "What is lit?", "When does the tide turn?", "Why so late?"]
    plain = [await run(engine, chat(engine, text, logprobs=0, key="")) for text in texts]
    long = await engine.generate(chat(engine, "Tell all of it", max_tokens=300))
    await asyncio.wait_for(anext(long), 60)
    asked = [chat(engine, text, logprobs=0) for text in texts]
    found = await asyncio.gather(*(run(engine, each) for each in asked))
    await long.cancel()
    assert counted(engine, "reused_tokens") > 150 * len(texts)
    for mine, other in zip(found, plain, strict=True):
        assert [token for token, _ in mine] == [token for token, _ in other]


async def test_kept_slots_are_free_for_others_oldest_first(engine: EmbeddedEngine) -> None:
    """What is kept delays no stream: four signers' chats give way to four others' at once."""
    for number in range(4):
        await run(engine, chat(engine, "Who rows?", key=f"signer {number}"))
    assert counted(engine, "kept_prefixes") == 4
    await run(engine, chat(engine, "Who rows?", key="a fifth"))
    await run(engine, chat(engine, "Who rows?", key="signer 0"))
    assert counted(engine, "reused_tokens") == 0
    many = [chat(engine, "Who rows?", key="", max_tokens=30) for _ in range(4)]
    assert all(len(found) == 0 for found in await asyncio.gather(*(run(engine, m) for m in many)))
    assert counted(engine, "kept_prefixes") == 0


async def test_an_interrupted_chat_does_not_replace_another(engine: EmbeddedEngine) -> None:
    """Two chats of one signer that share a few words only are both kept."""
    other = "Speak of nets, ropes and sails, and of nothing else in the world. " * 3
    texts = [("Who rows?", SYSTEM), ("Who mends?", "You are the" + other)] * 2
    for text, system in texts:
        await run(engine, chat(engine, text, system=system))
    assert counted(engine, "reused_tokens") > 300


@pytest.mark.parametrize("keep_s", [0.0, 0.05])
async def test_what_is_kept_ends_with_its_time(
    base: LoadedBase, tmp_path: Path, keep_s: float
) -> None:
    """A node that is idle again gives the memory of kept slots back, without a request."""
    engine = await start(base, "float32", tmp_path, prefix_s=keep_s)
    await run(engine, chat(engine, "Who rows?"))
    async with asyncio.timeout(60):
        while counted(engine, "kept_prefixes"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await run(engine, chat(engine, "Who rows?"))
    assert counted(engine, "reused_tokens") == 0
    await engine.close()


async def test_a_failed_answer_is_not_kept(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fault left in a slot is nobody's beginning."""
    decoder: Any = engine._engine_loop._decoder

    def breaks(*_arguments: Any) -> None:
        raise RuntimeError("cannot multiply")

    monkeypatch.setattr(decoder, "decode", breaks)
    with pytest.raises(Exception, match="failed"):
        await run(engine, chat(engine, "Who rows?"))
    monkeypatch.undo()
    assert counted(engine, "kept_prefixes") == 0


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [([], [1], 0), ([1, 2, 3], [1, 2, 3], 3), ([1, 2], [1, 2, 3], 2), ([1, 2, 9, 4], [1, 2, 3], 2)],
)
def test_the_shared_beginning_is_counted(one: list[int], other: list[int], shared: int) -> None:
    """One token more would read what another text computed."""
    assert shared_length(one, other) == shared_length(other, one) == shared
