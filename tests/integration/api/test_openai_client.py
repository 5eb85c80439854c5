"""The shapes that OpenAI's own client reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node

from viz.domain.card import ReportCard
from viz.domain.units import BASE_MODEL
from viz.protocol import payment
from viz.protocol.messages import AdapterOffer


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def prepaid(node: Node) -> tuple[Buyer, openai.AsyncOpenAI]:
    buyer = await Buyer(node).ready()
    for adapter_id in (BASE_MODEL, ADAPTER):
        await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(adapter_id, 100_000, 0))
    client = openai.AsyncOpenAI(base_url=node.url + "/v1", api_key=buyer.token, max_retries=0)
    return buyer, client


async def test_openais_client_reads_streams_and_answers(node: Node) -> None:
    """The official client works unmodified: models, chat and completions, whole and streaming."""
    buyer, client = await prepaid(node)
    assert [each.id async for each in client.models.list()] == ["fake", "viz-adapter-7"]
    asked: dict[str, Any] = {
        "model": "viz-adapter-7",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = await client.chat.completions.create(
        **asked, n=2, logprobs=True, top_logprobs=2, seed=1
    )
    assert len(whole.choices) == 2 and whole.usage is not None
    text = whole.choices[0].message.content
    assert text and whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.content is not None
    assert "".join(each.token for each in whole.choices[0].logprobs.content) == text
    stream = await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == len(text)
    plain = await client.completions.create(
        model="fake", prompt="Once", max_tokens=9, stop=["zz"], logprobs=1
    )
    assert plain.choices[0].text and plain.choices[0].logprobs is not None
    assert len(await node.store.receipts(buyer.signer)) == 3
    await client.close()


async def test_a_silent_request_is_answered_at_the_adapter_s_own_temperature(node: Node) -> None:
    """Facts are not drawn by chance; the card that says so is in what a buyer lists."""
    (record,) = node.parts.catalogue.records()
    card = ReportCard(48, 40, 1, 30, 28, 0.0, 13)
    await node.parts.catalogue.add(replace(record, card=card))
    _, client = await prepaid(node)

    async def said(**more: Any) -> str | None:
        asked = [{"role": "user", "content": "When is high tide?"}]
        found = await client.chat.completions.create(
            model="viz-adapter-7", messages=cast(Any, asked), max_tokens=12, **more
        )
        text: str | None = found.choices[0].message.content
        return text

    assert await said() == await said(temperature=0) != await said(temperature=1)
    *_, offered = [each async for each in client.models.list()]
    assert cast(Any, offered).viz["card"]["right"] == 40
    assert AdapterOffer.from_json(cast(Any, offered).viz).card == card
    await client.close()


async def test_openais_client_understands_refusals(node: Node) -> None:
    """Refusals arrive as the client's own exceptions, with our code."""
    _, client = await prepaid(node)
    with pytest.raises(openai.NotFoundError) as found:
        await client.chat.completions.create(
            model="gpt-5", messages=[{"role": "user", "content": "hi"}]
        )
    assert found.value.code == "unknown-model"
    await client.close()


async def test_who_did_not_opt_in_gets_plain_events(node: Node) -> None:
    """Payment facts come as comments, so that any SSE reader skips them."""
    buyer, client = await prepaid(node)
    headers = {"Authorization": f"Bearer {buyer.token}"}
    async with node.http.post(
        node.url + payment.CHAT_PATH, json=buyer.chat(), headers=headers
    ) as response:
        lines = (await response.text()).splitlines()
    assert not any(line.startswith("event:") for line in lines)
    assert any(line.startswith(": payment-receipt {") for line in lines)
    assert [line for line in lines if line.startswith("data:")][-1] == "data: [DONE]"
    await client.close()
