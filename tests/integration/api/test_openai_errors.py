"""Refusals as OpenAI's own client raises them: the class, the code, and what it does next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node
from tests.integration.api.test_streams import spent_of

from viz.domain.ports.engine import Generation, GenerationRequest
from viz.errors import EngineOverloaded
from viz.protocol import payment
from viz.protocol.credential import credential_to_header
from viz.services.payments.relay_budget import RelayPolicy


class FullEngine(FakeEngine):
    """An engine that refuses so many generations, and then has room."""

    def __init__(self) -> None:
        super().__init__(context_tokens=256)
        self.refusals = 0
        self.asked = 0

    async def generate(self, request: GenerationRequest) -> Generation:
        self.asked += 1
        if self.refusals:
            self.refusals -= 1
            raise EngineOverloaded("the engine is full: try again shortly")
        return await super().generate(request)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    limits = RelayPolicy(per_hour=100, per_payer_per_hour=1)
    async with running_node(tmp_path, engine=FullEngine(), relays=limits) as running:
        yield running


@pytest.fixture
async def buyer(node: Node) -> Buyer:
    made = await Buyer(node).ready()
    await made.pay(payment.VOUCHERS_PATH, made.voucher(ADAPTER, 50_000, 0))
    return made


def client_of(node: Node, key: str, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=node.url + "/v1", api_key=key, max_retries=retries)


REFUSALS: list[tuple[str, dict[str, Any], type[openai.APIStatusError], int, str, str]] = [
    ("bad value", {"temperature": 9}, openai.BadRequestError, 400, "invalid-request",
     "invalid_request_error"),
    ("unknown name", {"extra_body": {"min_q": 1}}, openai.BadRequestError, 400, "invalid-request",
     "invalid_request_error"),
    ("unknown model", {"model": "gpt-5"}, openai.NotFoundError, 404, "unknown-model",
     "not_found_error"),
    ("unpaid", {"model": "fake"}, openai.APIStatusError, 402, "payment-required",
     "payment_error"),
    ("too long", {"max_tokens": 300}, openai.APIStatusError, 413, "prompt-too-long",
     "invalid_request_error"),
    ("too large", {"user": "x" * 70_000}, openai.APIStatusError, 413, "http-413",
     "invalid_request_error"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "status", "code", "kind"),
    [each[1:] for each in REFUSALS],
    ids=[each[0] for each in REFUSALS],
)
async def test_a_refusal_is_the_clients_own_exception(
    node: Node,
    buyer: Buyer,
    change: dict[str, Any],
    error: type[openai.APIStatusError],
    status: int,
    code: str,
    kind: str,
) -> None:
    """Programs written for OpenAI tell refusals apart by class, status, code and type."""
    asked = {"model": "viz-adapter-7", "messages": [{"role": "user", "content": "hi"}]}
    async with client_of(node, buyer.token) as client:
        with pytest.raises(error) as caught:
            await client.chat.completions.create(**{**asked, **change})
    found = caught.value
    assert type(found) is error and found.status_code == status
    assert (found.code, found.type) == (code, kind)
    assert found.request_id and isinstance(found.body, dict) and found.body["message"]


async def test_a_foreign_key_is_told_how_to_pay(node: Node) -> None:
    """OpenAI's clients always send a key: who points one at a node is told of proxy and page."""
    async with client_of(node, "sk-made-up") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "hi"}]
            )
    assert (caught.value.status_code, caught.value.code) == (402, "payment-required")
    assert "viz buyer proxy --node http://node.test" in caught.value.message
    assert payment.Challenge.from_header(caught.value.response.headers["WWW-Authenticate"])
    where = caught.value.response.json()["help"]
    assert where == "http://node.test/" and where in caught.value.message
    async with node.http.get(node.url + "/") as page:
        told = await page.text()
    assert page.status == 200 and "viz buyer proxy --node http://node.test" in told


async def test_a_token_of_a_node_that_is_not_known_is_an_authentication_error(node: Node) -> None:
    """A buyer whose token this node forgot signs in again, and is not asked to pay anew."""
    async with client_of(node, "viz_made-up") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "hi"}]
            )
    assert (caught.value.status_code, caught.value.code) == (401, "access-token-invalid")


async def test_a_busy_relay_is_a_rate_limit(node: Node, buyer: Buyer) -> None:
    """429 with Retry-After is the client's RateLimitError."""
    header = {"Authorization": credential_to_header(buyer.deposit(5_000, opening=False))}
    async with client_of(node, buyer.token) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.post(
                node.url + payment.CHANNELS_PATH, cast_to=object, options={"headers": header}
            )
    assert caught.value.code == "relay-busy"
    assert int(caught.value.response.headers["Retry-After"]) >= 1


async def test_a_full_engine_says_when_to_come_back(node: Node, buyer: Buyer) -> None:
    """503 with Retry-After, nothing charged; the client comes back by itself and is served."""
    engine = node.engine
    assert isinstance(engine, FullEngine)
    engine.refusals = 2
    messages: Any = [{"role": "user", "content": "hi"}]
    async with client_of(node, buyer.token) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="viz-adapter-7", messages=messages, max_tokens=8, n=2
            )
    full = caught.value
    assert (full.status_code, full.code, full.type) == (
        503,
        "engine-overloaded",
        "overloaded_error",
    )
    assert full.response.headers["Retry-After"] == "1"
    await node.parts.serving.drain()
    assert sum((await spent_of(node, buyer)).values()) == 0
    active_channel = await node.parts.vouchers._channels.get(buyer.signer)
    assert active_channel.channel.reserved == {} and not active_channel.deliveries
    asked = engine.asked
    async with client_of(node, buyer.token, retries=1) as client:
        whole = await client.chat.completions.create(
            model="viz-adapter-7", messages=messages, max_tokens=8
        )
    assert whole.choices[0].message.content and engine.asked == asked + 2
