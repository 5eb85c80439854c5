"""The market over HTTP, and the operator's entry in the directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, OPERATOR_TOKEN, Buyer, Node, running_node

from viz.protocol.market import MARKET_PATH, MarketPage

OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
ENTRY = "/operator/v1/announcement"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def test_a_node_answers_its_own_offers_with_a_tag(node: Node) -> None:
    """A client that has the page already is not sent it again; another question has another."""
    state = node.chain.adapter_states[ADAPTER]
    node.chain.adapter_states[ADAPTER] = replace(state, base_model=node.engine.model.digest)
    await node.parts.discovery.step()
    buyer = Buyer(node)
    _, body, headers = await buyer.call("GET", MARKET_PATH)
    page = MarketPage.from_json(body)
    assert [model.adapter_id for model in page.models] == [0, ADAPTER]
    assert page.models[1].offers[0].node == node.chain.address
    tag = {"If-None-Match": headers["ETag"]}
    async with node.http.get(node.url + MARKET_PATH, headers=tag) as response:
        assert response.status == 304 and await response.read() == b""
    async with node.http.get(node.url + MARKET_PATH + "?q=tides", headers=tag) as response:
        assert response.status == 200
        found = MarketPage.from_json(await response.json())
    assert [model.adapter_id for model in found.models] == [ADAPTER]


WRONG = [
    "color=red",
    "adapter=x",
    "adapter=4294967296",
    "adapter=-1",
    "work=1.5",
    "base=0x12",
    "node=0x12",
    "limit=0",
    "limit=1&limit=2",
    "q=tides&q=bread",
    "limit=101",
    "maxPromptPrice=1e9",
    "after=first",
    "q=" + "a+" * 20,
]


@pytest.mark.parametrize("query", WRONG)
async def test_a_wrong_question_is_refused_by_name(node: Node, query: str) -> None:
    """Protects from an answer to another question than was asked."""
    status, problem, _ = await Buyer(node).call("GET", f"{MARKET_PATH}?{query}")
    assert (status, problem["code"]) == (400, "invalid-request")
    assert problem["param"] == query.partition("=")[0]


async def test_the_operator_announces_and_withdraws_the_node(node: Node) -> None:
    """The node's own key writes the entry, and only its operator can have it written."""
    buyer = Buyer(node)
    status, problem, _ = await buyer.call("POST", ENTRY, body={"url": "http://127.0.0.1:1"})
    assert (status, problem["code"]) == (401, "access-token-invalid")
    for wanted, told in (({}, "public_url"), ({"url": "gopher://x"}, "http(s)://")):
        status, problem, _ = await buyer.call("POST", ENTRY, body=wanted, headers=OPERATOR)
        assert status == 400 and told in problem["detail"]
    body = {"url": "http://127.0.0.1:8402"}
    _, said, _ = await buyer.call("POST", ENTRY, body=body, headers=OPERATOR)
    assert said["url"] == body["url"] and said["transaction"].startswith("0x")
    _, again, _ = await buyer.call("POST", ENTRY, body=body, headers=OPERATOR)
    assert again["transaction"] is None
    entry = node.chain.directory[node.chain.address]
    assert (entry.url, entry.age_key) == (body["url"], node.parts.terms.age_recipient)
    _, gone, _ = await buyer.call("DELETE", ENTRY, headers=OPERATOR)
    assert gone["url"] is None and node.chain.directory == {}
    status, problem, _ = await buyer.call("DELETE", ENTRY, headers=OPERATOR)
    assert (status, problem["code"]) == (400, "invalid-request")
