"""What OpenAI's own client reads of an answer, from the real engine where it samples."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.api import harness
from tests.integration.api.harness import Buyer, Node, running_node
from tests.integration.api.test_openai_client import prepaid

from viz.domain.pricing import Price
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings

ASKED: dict[str, Any] = {
    "model": "viz-adapter-7",
    "messages": [{"role": "user", "content": "When is high tide?"}],
    "max_tokens": 16,
}


@pytest.fixture
async def client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client at a node with the embedded engine and a random adapter on a tiny base."""
    base = make_tiny_base(tmp_path)

    def weights(path: Path) -> Path:
        write_random_adapter(path, base, rank=4, seed=1)
        return path

    monkeypatch.setattr(harness, "fake_adapter_file", weights)
    settings = EngineSettings(max_streams=4, threads=1, compute="float32", compile=False)
    engine = await EmbeddedEngine.start(base, settings)
    async with running_node(tmp_path, engine=cast(Any, engine)) as node:
        _, made = await prepaid(node)
        async with made:
            yield made


async def text_of(client: openai.AsyncOpenAI, **more: Any) -> tuple[str, str]:
    """Return the text of a whole answer, held to be that of the streamed one, and why it ended."""
    whole = await client.chat.completions.create(**ASKED, **more)
    stream = await client.chat.completions.create(**ASKED, **more, stream=True)
    chunks = [chunk.choices[0] async for chunk in stream]
    text, ended = whole.choices[0].message.content or "", whole.choices[0].finish_reason
    assert "".join(chunk.delta.content or "" for chunk in chunks) == text
    assert chunks[-1].finish_reason == ended
    return text, ended


async def test_a_stop_text_ends_the_answer_before_it(client: openai.AsyncOpenAI) -> None:
    """One stop or several: the first that occurs ends the text, whole and streamed."""
    text, ended = await text_of(client, temperature=0)
    assert ended == "length" and len(text) > 8
    for first, last in ((3, 5), (6, 7)):
        stop = text[first:last]
        before = text[: text.index(stop)]
        assert await text_of(client, temperature=0, stop=stop) == (before, "stop")
        several = ["never this", stop, "nor this"]
        assert await text_of(client, temperature=0, stop=several) == (before, "stop")


async def test_top_k_of_one_is_greedy(client: openai.AsyncOpenAI) -> None:
    """A positive top_k bounds the choice, however hot it is."""
    greedy = await text_of(client, temperature=0)
    assert await text_of(client, temperature=2, extra_body={"top_k": 1}) == greedy


async def test_choices_of_one_seed_differ_and_repeat(client: openai.AsyncOpenAI) -> None:
    """n answers are n samples; the same seed gives them again, streamed under their indexes."""
    rules: dict[str, Any] = {"n": 3, "temperature": 1.0}

    async def texts(seed: int) -> list[str]:
        whole = await client.chat.completions.create(**ASKED, **rules, seed=seed)
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        return [choice.message.content or "" for choice in whole.choices]

    first = await texts(5)
    assert len(set(first)) == 3
    assert await texts(5) == first
    assert await texts(900) != first
    stream = await client.chat.completions.create(**ASKED, **rules, seed=5, stream=True)
    parts: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    async for chunk in stream:
        parts[chunk.choices[0].index].append(chunk.choices[0])
    for index, chunks in parts.items():
        assert "".join(chunk.delta.content or "" for chunk in chunks) == first[index]
        assert [chunk.delta.role for chunk in chunks if chunk.delta.role] == ["assistant"]
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]


async def test_streamed_logprobs_are_those_of_the_whole_answer(
    client: openai.AsyncOpenAI,
) -> None:
    """Each chunk carries the log-probabilities of its tokens, whose bytes spell the text."""
    rules: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = await client.chat.completions.create(**ASKED, **rules)
    assert whole.choices[0].logprobs is not None and whole.choices[0].logprobs.content is not None
    expected = whole.choices[0].logprobs.content
    stream = await client.chat.completions.create(**ASKED, **rules, stream=True)
    found = [
        token
        async for chunk in stream
        if chunk.choices[0].logprobs is not None
        for token in chunk.choices[0].logprobs.content or ()
    ]
    assert [token.token for token in found] == [token.token for token in expected]
    assert [token.logprob for token in found] == pytest.approx([t.logprob for t in expected])
    for token in found:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2
        best = max(each.logprob for each in token.top_logprobs)
        assert token.logprob == pytest.approx(best), "greedy takes the likeliest"
    spelled = bytes(byte for token in found for byte in token.bytes or ())
    assert spelled.decode(errors="replace") == whole.choices[0].message.content


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def test_completions_say_where_each_token_stands(node: Node) -> None:
    """Offsets point at the tokens in the text, also while a stop text holds some of it back."""
    _, client = await prepaid(node)
    asked: dict[str, Any] = {"model": "fake", "prompt": "Once", "max_tokens": 24, "temperature": 0}
    text = (await client.completions.create(**asked)).choices[0].text
    held = [text[5] + "~", text[11] + "~"]
    whole = (await client.completions.create(**asked, logprobs=2, stop=held)).choices[0]
    marks = whole.logprobs
    assert marks is not None and whole.text == text
    assert marks.tokens and marks.text_offset and marks.token_logprobs and marks.top_logprobs
    for token, offset in zip(marks.tokens, marks.text_offset, strict=True):
        assert text[offset : offset + len(token)] == token
    assert all(mark is not None and mark <= 0 for mark in marks.token_logprobs)
    assert len(marks.top_logprobs) == len(marks.tokens) == 24
    stream = await client.completions.create(**asked, logprobs=2, stop=held, stream=True)
    offsets: list[int] = []
    async for chunk in stream:
        if chunk.choices[0].logprobs is not None:
            offsets += chunk.choices[0].logprobs.text_offset or ()
    assert offsets == marks.text_offset
    await client.close()


async def test_a_free_answer_is_counted_all_the_same(tmp_path: Path) -> None:
    """A node that asks nothing signs no receipt, and says how many tokens it made."""
    async with running_node(tmp_path, price=Price(0, 0)) as node:
        buyer = Buyer(node)
        await buyer.login()
        body = buyer.chat(model="fake", max_tokens=12, stream_options={"include_usage": True})
        streamed = await buyer.ask(body, pays=False)
        del body["stream_options"]
        whole = await buyer.ask({**body, "stream": False}, pays=False)
        assert streamed.receipt is None and streamed.text
        for usage in (streamed.usage, whole.body["usage"]):
            assert usage["completion_tokens"] == len(streamed.text) == 12
            assert usage["total_tokens"] == usage["prompt_tokens"] + 12
