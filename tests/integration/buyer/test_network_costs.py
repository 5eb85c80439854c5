"""What a buyer of the network is told of money and of nodes when an answer goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from tests.integration.api.harness import ADAPTER
from tests.integration.buyer.test_killed_mid_answer import cut
from tests.integration.buyer.test_network import (
    DEPOSIT,
    MODEL,
    PRICES,
    SUGGESTED,
    Network,
    chat,
    network,
    read,
)

from viz.buyer.network.budget import Budget
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.network.control import NetworkControl
from viz.buyer.network.failover import NetworkAnswer
from viz.buyer.proxy.openai_errors import error_body
from viz.client import node_client
from viz.domain.pricing import Price
from viz.errors import ChainUnreachable, EngineOverloaded, PriceAboveCap, VizError
from viz.protocol.messages import NodeInfo
from viz.protocol.problems import CODE_URI, error_of
from viz.protocol.sse import ServerEvent, SseReader

__all__ = ["network"]  # the fixture

STOLEN = "viz: your deposit was stolen, send to 0xdead"


async def sells_at(network: Network, name: str, price: Price) -> None:
    catalogue = network.nodes[name].parts.catalogue
    (record,) = (each for each in catalogue.records() if each.adapter_id == ADAPTER)
    await catalogue.add(
        replace(
            record,
            prompt_units_per_million=price.prompt_price_units,
            completion_units_per_million=price.completion_price_units,
        )
    )


async def read_and_cut(
    network: Network, buyer: NetworkBuyer, body: dict[str, Any]
) -> NetworkAnswer:
    """Read an answer whose first node, B, dies in the middle."""
    async with buyer.ask(body) as answer:
        async for _ in answer:
            if len(answer.text) >= 40 and not answer.parts:
                await cut(network.nodes["b"])
    return answer


def breaking(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    """Have one event in the middle of the first stream say ``data``."""
    read: list[int] = []

    class Front(SseReader):
        def feed(self, chunk: bytes) -> list[ServerEvent]:
            found = super().feed(chunk)
            read.append(len(found))
            if sum(read) < 20 or 0 in read:
                return found
            read.append(0)
            return [*found, ServerEvent("", data)]

    monkeypatch.setattr("viz.buyer.answers.answer.SseReader", Front)


async def test_what_a_broken_answer_cost_is_said_if_no_other_node_continues_it(
    network: Network,
) -> None:
    """The error said "nothing was paid" after B was paid: C had become too dear."""
    only_c = Budget(DEPOSIT, nodes=frozenset({network.address("c")}))
    async with network.buyer(budget=only_c) as buyer:
        await read(buyer, chat())
    dear = Price(3 * PRICES["c"].prompt_price_units, 3 * PRICES["c"].completion_price_units)
    await sells_at(network, "c", dear)
    async with network.buyer() as buyer:
        with pytest.raises(PriceAboveCap) as refused:
            await read_and_cut(network, buyer, chat(max_tokens=120))
        spent = int((await buyer.spending_report())["today"])
    told = refused.value.detail
    b, c = (f"{network.nodes[name].url} ({network.address(name)})" for name in "bc")
    assert told.startswith(f"{c}: {MODEL} costs 12 vUSD") and "nothing was paid" not in told
    assert "this folder last accepted from this node is 4 vUSD" in told
    (part,) = refused.value.extensions["parts"]
    assert part["node"] == network.address("b") and 0 < int(part["cost"]) < spent
    assert f". Paid for what arrived: 0.{int(part['cost']):06} vUSD" in told and f"at {b}" in told
    assert f"deposited for it, and yours until you sign for it: 0.100000 vUSD at {b}" in told
    assert error_body(refused.value)["viz"]["parts"] == [part]


async def test_no_deposit_is_made_for_an_adapter_that_ended_on_the_buyer_s_chain(
    network: Network,
) -> None:
    """It ends while B answers, and B dies: C was paid a deposit only to refuse then."""
    async with network.buyer() as buyer:
        answer = None
        with pytest.raises(VizError, match="may not be served by") as refused:
            async with buyer.ask(chat(max_tokens=120)) as answer:
                async for _ in answer:
                    if len(answer.text) >= 40 and ADAPTER not in network.chain.unservable:
                        network.chain.unservable[ADAPTER] = "it is retired"
                        await cut(network.nodes["b"])
        assert answer is not None and "it is retired" in refused.value.detail
        assert [each.node for each in answer.deposits] == [network.address("b")]


async def test_a_node_whose_price_rose_is_left_for_the_next(network: Network) -> None:
    """A price that is not accepted is that node's: the next one is asked, with nothing lost."""
    async with network.buyer() as buyer:
        assert (await read(buyer, chat())).parts[0].node == network.address("b")
    await sells_at(network, "b", Price(3_500_000, 10_000_000))
    async with network.buyer() as buyer:
        assert (await read(buyer, chat(seed=2))).parts[0].node == network.address("c")


async def test_a_price_that_was_told_and_never_sold_at_is_not_accepted(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bait shut its node out for good, and its deposit was told nobody."""
    honest = NodeInfo.from_json

    def baiting(value: object) -> NodeInfo:
        info = honest(value)
        if info.node != network.address("c"):
            return info
        cheap = tuple(
            replace(each, prompt_price_units=1, completion_price_units=1) for each in info.adapters
        )
        return replace(info, adapters=cheap)

    monkeypatch.setattr(NodeInfo, "from_json", baiting)

    async def tell(line: str) -> None:
        pass

    async with network.buyer() as buyer:
        done = await NetworkControl(buyer).ask(chat(), tell, tell)
    assert [part["node"] for part in done["parts"]] == [network.address("b")]
    made = {each["node"]: (each["amount"], each["confirmed"]) for each in done["deposits"]}
    assert made == {network.address(name): (str(SUGGESTED), True) for name in "bc"}
    monkeypatch.setattr(NodeInfo, "from_json", honest)
    async with network.buyer() as buyer:
        answer = await read_and_cut(network, buyer, chat(max_tokens=120))
    assert [part.node for part in answer.parts] == [network.address(name) for name in "bc"]
    assert answer.deposits == []


async def test_what_a_node_says_is_told_as_its_words(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's words were told as Viz's own, with no node named."""

    async def refuses(response: object) -> VizError:
        return error_of(
            {"type": f"{CODE_URI}x", "code": "engine-overloaded", "detail": STOLEN}, 503
        )

    post = aiohttp.ClientSession.post

    async def answers_503(http: aiohttp.ClientSession, *args: Any, **sent: Any) -> Any:
        response = await post(http, *args, **sent)
        response.status = 503
        return response

    monkeypatch.setattr(aiohttp.ClientSession, "post", answers_503)
    monkeypatch.setattr(node_client, "problem_of", refuses)
    async with network.buyer() as buyer:
        with pytest.raises(EngineOverloaded) as refused:
            await read(buyer, chat())
    who = f"{network.nodes['c'].url} ({network.address('c')})"
    said = error_body(refused.value)["error"]["message"]
    assert said.startswith(f"{who} says: {STOLEN}") and said.count("says:") == 1


async def test_what_a_node_says_in_the_middle_is_told_as_its_words(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a stream is the node's word too."""
    breaking(monkeypatch, f'{{"error": {{"code": "engine", "message": "{STOLEN}"}}}}')
    async with network.buyer() as buyer:
        answer = await read(buyer, chat(max_tokens=120))
    who = f"{network.nodes['b'].url} ({network.address('b')})"
    assert answer.parts[0].fault.startswith(f"{who} says: {STOLEN}")


async def test_tokens_are_the_bills_where_there_are_bills(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the model's tokenizer a bound of the tokens was told as their number."""
    asked_tokens = len(network.nodes["b"].engine.render(chat()["messages"]))
    with monkeypatch.context() as patched:
        breaking(patched, "<html>504 Gateway Time-out</html>")
        async with network.buyer(count_tokens=None) as buyer:
            answer = await read(buyer, chat(max_tokens=120))
    first, second = answer.parts
    assert first.billed and not first.estimated and first.prompt_tokens == asked_tokens
    units = PRICES["b"].amount_units(first.prompt_tokens, first.completion_tokens)
    assert first.units == units
    assert answer.usage["prompt_tokens"] == asked_tokens and not second.estimated


async def test_tokens_that_no_bill_tells_are_called_estimated(network: Network) -> None:
    """A bound by the bytes of the text was told as the number of the tokens."""
    async with network.buyer(count_tokens=None) as buyer:
        answer = await read_and_cut(network, buyer, chat(max_tokens=120))
    assert [part["estimated"] for part in answer.parts_json()] == [True, False]


async def test_the_buyers_own_chain_is_held_against_no_node(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node in turn waited for the buyer's own endpoint, and was then ranked last for it."""
    asked: list[object] = []

    async def silent(*what: object, **how: object) -> None:
        asked.append(what)
        raise ChainUnreachable("the chain at http://127.0.0.1:1 cannot be reached")

    async with network.buyer() as buyer:
        await buyer.model(MODEL)
        for name in ("adapter", "channel", "chain_time"):
            monkeypatch.setattr(network.chain, name, silent)
        with pytest.raises(ChainUnreachable, match=r"^the chain at") as refused:
            await read(buyer, chat())
        assert len(asked) == 1 and not buyer._file.read().nodes
    assert "http" not in refused.value.detail.replace("http://127.0.0.1:1", "")
