"""The paywall before another server: what arrived is billed, by our count, whatever it claims."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.openai_server import FakeModelServer
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node
from tests.integration.api.test_streams import idle, last_receipt, spent_of
from tests.integration.engine.upstream_parts import export_tiny, upstream

from viz.services.serving.paid_stream import ServingPolicy

STEP_TOKENS = 8


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("tiny"), adapters=1)


@dataclass
class Shop:
    """A node over one server, and the server."""

    node: Node
    server: FakeModelServer


@pytest.fixture
def grace_s() -> float:
    """How long the node waits for a voucher: longer than this process computes at a time."""
    return 30.0


@pytest.fixture
def return_s() -> float:
    """How long a request waits for a server that failed it to be ready again."""
    return 1.0


@pytest.fixture
async def shop(
    tiny_root: Path, tmp_path: Path, grace_s: float, return_s: float
) -> AsyncIterator[Shop]:
    # Text of which each byte is a character, so that the canonical count is that of the tokens.
    server = FakeModelServer(tiny_root / "out", only_ids=range(3 + ord(" "), 3 + ord("~")))
    policy = ServingPolicy(step_tokens=STEP_TOKENS, voucher_grace_s=grace_s)
    async with (
        upstream(tiny_root, tmp_path, [server], timeout_s=15.0, return_s=return_s) as engine,
        running_node(
            tmp_path, engine=engine, adapter_file=tiny_root / "1.safetensors", policy=policy
        ) as node,
    ):
        # On a crowded machine the first look may run out of time; the server is looked at again.
        # And the canary's values, which the first answer waits for, come from a niced process.
        async with asyncio.timeout(300):
            while not engine.stats()["servers_ready"] or engine._background:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield Shop(node, server)


async def test_an_answer_is_paid_step_by_step(shop: Shop) -> None:
    """A whole answer: the receipt counts the text by our tokenizer, not the server's usage."""
    buyer = await Buyer(shop.node).ready()
    answer = await buyer.ask(buyer.chat(max_tokens=30))
    await idle(shop.node)
    receipt = await last_receipt(shop.node, buyer)
    assert receipt.completion_tokens == shop.node.engine.count_tokens(answer.text)
    assert 0 < receipt.completion_tokens <= 30
    assert await spent_of(shop.node, buyer) == {ADAPTER: receipt.amount_units}


# The server comes back after each break, on a crowded machine perhaps later than after a second.
@pytest.mark.parametrize("return_s", [60.0])
async def test_a_server_that_dies_in_mid_stream_is_billed_for_what_arrived(shop: Shop) -> None:
    """The buyer is told, and pays for the text that it has, and for no more."""
    buyer = await Buyer(shop.node).ready()
    shop.server.misconduct.die_after = 5  # so often that no other attempt ends it
    answer = await buyer.ask(buyer.chat(max_tokens=30))
    assert answer.body["error"]["code"] == "engine"
    await idle(shop.node)
    receipt = await last_receipt(shop.node, buyer)
    assert receipt.completion_tokens == shop.node.engine.count_tokens(answer.text) > 0
    assert await spent_of(shop.node, buyer) == {ADAPTER: receipt.amount_units}


async def test_a_server_that_fails_before_the_first_token_costs_nothing(shop: Shop) -> None:
    """No text, no bill."""
    buyer = await Buyer(shop.node).ready()
    shop.server.misconduct.status = 500
    answer = await buyer.ask(buyer.chat(max_tokens=30))
    assert answer.body["error"]["code"] == "engine-overloaded"
    await idle(shop.node)
    assert sum((await spent_of(shop.node, buyer)).values()) == 0


@pytest.mark.parametrize("grace_s", [0.3])
async def test_a_buyer_who_stops_paying_stops_the_server(shop: Shop) -> None:
    """Nobody computes far beyond what is paid."""
    buyer = await Buyer(shop.node).ready()
    need = (await buyer.need_of(buyer.chat(max_tokens=200))).need
    assert need is not None
    await buyer.satisfy(need)
    made = shop.server.made_tokens
    answer = await buyer.ask(buyer.chat(max_tokens=200), pays=False)
    await idle(shop.node)
    assert 0 < shop.node.engine.count_tokens(answer.text) <= STEP_TOKENS
    # What is paid, what may be ahead of it, what travels, and the canaries of the load.
    assert shop.server.made_tokens - made <= STEP_TOKENS + 16 + 16 + 14
    assert shop.server.running == 0
