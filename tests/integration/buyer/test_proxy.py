"""Any OpenAI program works through the proxy unmodified, and pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from tests.integration.api.harness import ADAPTER

from viz.buyer.client import BuyerClient
from viz.buyer.proxy import running_proxy
from viz.errors import ConfigError

MODEL = f"viz-adapter-{ADAPTER}"


class Silent:
    """An answer that began and says nothing more."""

    status = 200

    def __init__(self) -> None:
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    def close(self) -> None:
        pass


@pytest.fixture
async def url(buyer: BuyerClient) -> AsyncIterator[str]:
    async with running_proxy(buyer) as base_url:
        yield base_url


@pytest.fixture
async def program(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_the_official_client_streams_and_pays(
    program: openai.AsyncOpenAI, buyer: BuyerClient
) -> None:
    """Chunks arrive, usage is the receipt's, and the receipt is in the buyer's books."""
    stream = await program.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "When is high tide?"}],
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text and usage is not None and usage.completion_tokens > 0
    assert buyer.curve.seq == 1 and buyer.curve.spent_units(ADAPTER) > 0


async def test_a_whole_answer_is_the_streamed_one(program: openai.AsyncOpenAI) -> None:
    """Without streaming the proxy assembles what the node streamed."""
    question: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "When is high tide?"}
    ]
    whole = await program.chat.completions.create(
        model=MODEL, messages=question, max_tokens=24, temperature=0, logprobs=True
    )
    stream = await program.chat.completions.create(
        model=MODEL, messages=question, max_tokens=24, temperature=0, stream=True
    )
    text = ""
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert whole.choices[0].message.content == text != ""
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None and whole.usage.total_tokens > 0
    assert whole.choices[0].logprobs is not None


async def test_completions_and_models(program: openai.AsyncOpenAI) -> None:
    """The older interface works too, and the models are the node's."""
    done = await program.completions.create(model="fake", prompt="Once", max_tokens=8)
    assert done.choices[0].text
    assert {model.id async for model in program.models.list()} == {"fake", MODEL}


async def test_errors_have_openais_shape(program: openai.AsyncOpenAI) -> None:
    """A program sees which parameter of its request was wrong, not a stack trace."""
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        await program.chat.completions.create(
            model="gpt-9", messages=[{"role": "user", "content": "x"}]
        )
    with pytest.raises(openai.BadRequestError):
        await program.chat.completions.create(model=MODEL, messages=[], max_tokens=5)


async def test_a_web_page_cannot_spend_the_money(url: str) -> None:
    """A page in the buyer's browser reaches the loopback port; it is turned away."""
    async with aiohttp.ClientSession() as http:
        for headers in ({"Origin": "https://evil.test"}, {"Host": "evil.test"}):
            async with http.get(f"{url}/models", headers=headers) as response:
                assert response.status == 400


async def test_nobody_spends_without_the_key(buyer: BuyerClient) -> None:
    """With a key no other user of the machine is paid for; beyond the machine there must be one."""
    with pytest.raises(ConfigError, match="--api-key-file"):
        async with running_proxy(buyer, host="0.0.0.0"):
            pass
    async with running_proxy(buyer, key="tide-7") as url:
        for given, allowed in (("any", False), ("tide-70", False), ("tide-7", True)):
            async with openai.AsyncOpenAI(base_url=url, api_key=given, max_retries=0) as program:
                if allowed:
                    assert [model.id async for model in program.models.list()]
                else:
                    with pytest.raises(openai.AuthenticationError, match="key"):
                        await program.models.list()


async def test_a_program_that_gave_up_is_not_paid_for(
    url: str, buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will ask again: the answer that nobody waits for is left, not paid to its end."""
    began, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def endless(*given: Any) -> AsyncIterator[Any]:
        began.set()
        try:
            yield Silent()
        finally:
            left.set()

    monkeypatch.setattr(buyer.api, "generate", endless)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(f"{url}/chat/completions", json=body))
        async with asyncio.timeout(20):
            await began.wait()
            asking.cancel()
            await left.wait()
    assert buyer.purse.lacks_receipts


async def test_a_taken_port_is_named(url: str, buyer: BuyerClient) -> None:
    """The operator learns which port to change."""
    port = int(url.split(":")[2].split("/", maxsplit=1)[0])
    with pytest.raises(ConfigError, match=str(port)):
        async with running_proxy(buyer, port=port):
            pass
