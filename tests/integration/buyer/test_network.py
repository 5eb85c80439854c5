"""A buyer asks for a model and not for a node: three nodes over HTTP, one chain in memory."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain, address_of
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import PASSWORD
from tests.integration.buyer.test_killed_mid_answer import cut

from viz.buyer.ledger.network_record import NetworkFile, day_of
from viz.buyer.network import buyer as network_buyer_module
from viz.buyer.network import pool
from viz.buyer.network.budget import Budget
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.network.failover import NetworkAnswer
from viz.buyer.network.opening import NetworkSources, network_buyer
from viz.buyer.terms.prices import limits_in
from viz.buyer.wallet.wallet import KeyWallet
from viz.domain.display import amount
from viz.domain.eip712 import public_address
from viz.domain.ports.chain import NodeEntry
from viz.domain.pricing import Price
from viz.domain.units import Address
from viz.errors import (
    BudgetSpent,
    ChannelUnknown,
    InvalidRequest,
    NodeUnreachable,
    PriceAboveCap,
    UnknownModel,
    VizError,
)
from viz.local_socket import free_port
from viz.protocol.sse import ServerEvent, SseReader

KEYS = {"b": b"\x1b" * 32, "c": b"\x1c" * 32}
PRICES = {"b": Price(2_000_000, 6_000_000), "c": Price(4_000_000, 12_000_000)}
MODEL = f"viz-adapter-{ADAPTER}"
SCRIPT = b"The tide turns at noon, and the ferry waits for it until the bell has rung twice. "
DEPOSIT = 500_000
SUGGESTED = 100_000  # by these nodes


@dataclass
class Network:
    """The nodes by name, and what the tests need to know of them."""

    folder: Path
    chain: FakeChain
    nodes: dict[str, Node] = field(default_factory=dict)

    def address(self, name: str) -> Address:
        return public_address(KEYS[name])

    def announce(self, *names: str) -> None:
        for name in names:
            node = self.address(name)
            self.chain.directory[node] = NodeEntry(node, 1, self.nodes[name].url, "")

    def served(self, name: str) -> int:
        """Return how many tokens a node generated."""
        return int(self.nodes[name].engine.stats()["generated_tokens"])

    async def billed(self, name: str) -> int:
        """Return what a node's receipts sum to."""
        rows = await self.nodes[name].store.channels()
        return sum(row.total_units for row in rows)

    @asynccontextmanager
    async def buyer(
        self, *, chain: bool = True, urls: tuple[str, ...] = (), **changes: Any
    ) -> AsyncIterator[NetworkBuyer]:
        """Yield a buyer; with a ``chain`` it reads the directory there."""
        sources = NetworkSources(urls, self.chain if chain else None, private_addresses=True)
        engine = next(iter(self.nodes.values())).engine
        settings: dict[str, Any] = {
            "home": self.folder / "buyer",
            "password": PASSWORD,
            "budget": Budget(DEPOSIT),
            "limits": limits_in(DEPLOYMENT),
            "wallet": KeyWallet(PAYER_KEY),
            "clock": self.chain.clock,
            "count_tokens": engine.count_tokens,
            "scrypt_n": 2,
        }
        async with network_buyer(DEPLOYMENT, sources, **{**settings, **changes}) as made:
            yield made


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """Two nodes that serve the adapter, B cheaper than C; both are in the directory."""
    chain = FakeChain(KEYS["b"])
    chain.balances[public_address(PAYER_KEY)] = 10**9
    made = Network(tmp_path, chain)
    async with AsyncExitStack() as ends:
        for name in ("b", "c"):
            folder = tmp_path / name
            folder.mkdir()
            made.nodes[name] = await ends.enter_async_context(
                running_node(
                    folder,
                    chain=replace(chain, key=KEYS[name]),
                    engine=FakeEngine(context_tokens=2048, script=SCRIPT),
                    price=PRICES[name],
                    port=free_port(),
                )
            )
            record = made.nodes[name].parts.catalogue.records()[0]
            await made.nodes[name].parts.catalogue.add(
                replace(
                    record,
                    prompt_units_per_million=PRICES[name].prompt_price_units,
                    completion_units_per_million=PRICES[name].completion_price_units,
                )
            )
        engine = made.nodes["b"].engine
        state = chain.adapter_states[ADAPTER]
        chain.adapter_states[ADAPTER] = replace(state, base_model=engine.model.digest)
        made.announce("b", "c")
        yield made


def chat(**more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "When is high tide?"}]}
    return {**body, "max_tokens": 60, "temperature": 0, **more}


async def read(buyer: NetworkBuyer, body: dict[str, Any], **path: Any) -> NetworkAnswer:
    async with buyer.ask(body, **path) as answer:
        async for _ in answer:
            pass
    return answer


async def test_the_cheapest_node_is_found_on_the_chain_and_gets_one_deposit(
    network: Network,
) -> None:
    """Neither URL nor channel is named; a second answer costs no second deposit."""
    async with network.buyer() as buyer:
        answer = await read(buyer, chat())
        assert (answer.text, answer.model) == (SCRIPT[:60].decode(), MODEL)
        (part,) = answer.parts
        assert (part.node, part.billed) == (network.address("b"), True)
        assert answer.cost_units == part.units == await network.billed("b")
        await read(buyer, chat(seed=2))
        assert await network.billed("c") == 0
    (channel,) = network.chain.channels.values()
    assert (channel.node, channel.deposit_units) == (network.address("b"), SUGGESTED)


async def test_a_process_makes_deposits_at_a_bounded_number_of_nodes(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that look cheap, one after the other, collect no deposit without end."""
    monkeypatch.setattr(pool, "MAX_DEPOSITS", 1)
    async with network.buyer() as buyer:
        await read(buyer, chat())
        await cut(network.nodes["b"])
        with pytest.raises(VizError):
            await read(buyer, chat(seed=2))
    assert [channel.node for channel in network.chain.channels.values()] == [network.address("b")]


async def test_a_name_asks_the_adapter_and_words_find_it(network: Network) -> None:
    """A skill by the name that its nodes give it; a word of its description finds it."""
    async with network.buyer() as buyer:
        assert [model.model for model in await buyer.models(("tides",))] == [MODEL]
        assert await buyer.models(("nothing",)) == ()
        assert (await read(buyer, chat(model="Tides"))).model == MODEL
        with pytest.raises(UnknownModel, match=MODEL):
            await read(buyer, chat(model="viz-adapter-8"))


async def test_without_a_chain_known_nodes_lead_to_the_others(network: Network) -> None:
    """What a node's market names is asked itself: the cheapest node was not known before."""
    await network.nodes["c"].parts.discovery.step()
    async with network.buyer(chain=False, urls=(network.nodes["c"].url,)) as buyer:
        (model,) = await buyer.models(("tides",))
        assert {offer.node for offer in model.offers} == {network.address(n) for n in "bc"}
        assert (await read(buyer, chat())).parts[0].node == network.address("b")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_an_answer_goes_on_at_another_node_when_its_node_dies(
    network: Network, path: str
) -> None:
    """No text is lost or doubled, what came before is prompt at C, and every unit is found."""
    body = chat(max_tokens=120)
    if path == "/v1/completions":
        body = {**body, "prompt": "When is high tide?"}
        del body["messages"]
    async with network.buyer() as buyer:
        async with buyer.ask(body, path) as answer:
            ids: set[str] = set()
            async for chunk in answer:
                ids.add(chunk["id"])
                if len(answer.text) >= 40 and not answer.parts:
                    await cut(network.nodes["b"])
        first, second = answer.parts
        assert (first.node, second.node) == (network.address("b"), network.address("c"))
        assert len(ids) == 1 and answer.usage["completion_tokens"] == 120
        broken = answer.text[: first.completion_tokens]
        assert broken == (SCRIPT * 3)[: len(broken)].decode() and len(broken) >= 40
        assert answer.text[len(broken) :] == (SCRIPT * 3)[: 120 - len(broken)].decode()
        engine = network.nodes["c"].engine
        asked = engine.render(body["messages"]) if "messages" in body else body["prompt"]
        assert second.prompt_tokens == len(asked) + first.completion_tokens
        assert second.completion_tokens == 120 - first.completion_tokens
        price = PRICES["c"]
        assert second.units == price.amount_units(second.prompt_tokens, second.completion_tokens)
        assert second.units == await network.billed("c")
        assert await network.billed("b") <= first.units
        day = day_of(network.chain.clock.now)
        noted = NetworkFile(network.folder / "buyer").read().days[day]
        assert noted == first.units + second.units


async def test_a_node_that_died_before_is_not_asked_again_soon(network: Network) -> None:
    """After one failure the next request goes to the other node at once."""
    async with network.buyer() as buyer:
        await read(buyer, chat())
        await cut(network.nodes["b"])
        answer = await read(buyer, chat(seed=2))
        assert answer.parts[-1].node == network.address("c")
        served = network.served("c")
        answer = await read(buyer, chat(seed=3))
        assert len(answer.parts) == 1 and network.served("c") == served + 60


async def test_a_node_that_holds_a_copys_voucher_is_left_for_another(network: Network) -> None:
    """What one node says of its channel is no fault of this buyer, so another node is asked.

    The buyer's folder was restored from a backup, and the node holds what was signed after it.
    """
    async with network.buyer() as buyer:
        await read(buyer, chat())
    shutil.copytree(network.folder / "buyer", network.folder / "copy")
    async with network.buyer() as buyer:
        await read(buyer, chat(max_tokens=120, seed=2))
    async with network.buyer(home=network.folder / "copy") as restored:
        answer = await read(restored, chat(seed=3))
    assert answer.parts[-1].node == network.address("c")


async def test_a_node_that_falls_silent_is_left(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program waits seconds and not minutes for a node that hangs."""
    monkeypatch.setattr("viz.buyer.network.failover.NEXT_TEXT_S", 3.0)
    async with network.buyer() as buyer, buyer.ask(chat(max_tokens=120)) as answer:
        async for _ in answer:
            if len(answer.text) >= 30 and not answer.parts:
                monkeypatch.setattr(network.nodes["b"].engine, "_bound", lambda line: 0)
    first, second = answer.parts
    assert second.node == network.address("c") and "sent no text" in first.fault
    assert first.completion_tokens + second.completion_tokens == 120


async def test_an_answer_goes_on_where_a_server_before_its_node_wrote_into_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page in the stream was taken for an error of the request: no other node was asked."""
    written: list[int] = []

    class Front(SseReader):
        def feed(self, chunk: bytes) -> list[ServerEvent]:
            found = super().feed(chunk)
            written.append(len(found))
            if sum(written) < 20 or 0 in written:
                return found
            written.append(0)
            return [*found, ServerEvent("", "<html>504 Gateway Time-out</html>")]

    monkeypatch.setattr("viz.buyer.answers.answer.SseReader", Front)
    async with network.buyer() as buyer:
        answer = await read(buyer, chat(max_tokens=120))
    first, second = answer.parts
    assert second.node == network.address("c") and "broke off" in first.fault
    assert len(answer.text) == 120
    # The bill says what was sent, also what did not arrive.
    billed = first.completion_tokens + second.completion_tokens
    assert answer.usage["completion_tokens"] == billed >= 120 and first.billed


@pytest.mark.parametrize("most", [1, 60])
async def test_an_answer_of_which_every_token_came_is_not_continued(
    network: Network, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A node that dies before it says why it ended: another one was paid for one token more than
    the request allows, and for the whole prompt again."""

    class Front(SseReader):
        def feed(self, chunk: bytes) -> list[ServerEvent]:
            return [
                ServerEvent("", "<html>504 Gateway Time-out</html>")
                if '"finish_reason":"length"' in each.data.replace(" ", "")
                else each
                for each in super().feed(chunk)
            ]

    monkeypatch.setattr("viz.buyer.answers.answer.SseReader", Front)
    ended: list[Any] = []
    async with network.buyer() as buyer, buyer.ask(chat(max_tokens=most)) as answer:
        async for chunk in answer:
            ended += [each.get("finish_reason") for each in chunk.get("choices") or ()]
    (part,) = answer.parts
    assert part.node == network.address("b") and network.served("c") == 0
    assert len(answer.text) == most and ended[-1] == "length"


async def test_what_the_request_itself_gets_wrong_is_asked_of_one_node(network: Network) -> None:
    """No deposit is made at five nodes for a request that none can serve."""
    async with network.buyer() as buyer:
        for wrong in ({"temperature": 9}, {"tools": [{"type": "function"}]}):
            with pytest.raises(InvalidRequest):
                await read(buyer, chat(**wrong))
        assert [each.node for each in network.chain.channels.values()] == [network.address("b")]


async def test_budgets_hold(network: Network) -> None:
    """By day, by request, by deposit, by list: nothing is spent beyond what was allowed."""
    limits = limits_in(DEPLOYMENT)
    only_c = Budget(DEPOSIT, nodes=frozenset({network.address("c")}))
    async with network.buyer(budget=only_c) as buyer:
        assert (await read(buyer, chat())).parts[0].node == network.address("c")
    nobody = Budget(DEPOSIT, nodes=frozenset({address_of(5)}))
    async with network.buyer(budget=nobody) as buyer:
        with pytest.raises(ChannelUnknown, match="allow"):
            await read(buyer, chat())
    async with network.buyer(wallet=None, budget=Budget(DEPOSIT)) as buyer:
        assert (await read(buyer, chat())).parts[0].node == network.address("c"), "it has a deposit"
    spent = NetworkFile(network.folder / "buyer").read().days[day_of(network.chain.clock.now)]
    day = Budget(DEPOSIT, day_units=spent + 700)
    async with network.buyer(budget=day) as buyer:
        with pytest.raises(BudgetSpent, match="max-per-day"):
            await read(buyer, chat(max_tokens=200))
        await read(buyer, chat(max_tokens=20))
        with pytest.raises(BudgetSpent):
            await read(buyer, chat(max_tokens=100))
        network.chain.clock.now += 86_400
        await read(buyer, chat(max_tokens=20))
    async with network.buyer(limits=replace(limits, request_units=300)) as buyer:
        enough = (
            r"may cost 0.000300 vUSD at most, and needs 0.\d+ vUSD to \w+( on)? and up to 0.\d+"
        )
        with pytest.raises(PriceAboveCap, match=enough) as refused:
            await read(buyer, chat(max_tokens=200))
        assert "raise --max-per-request" in refused.value.detail
    # What would not pay for the prompt is refused before anything is signed.
    async with network.buyer(limits=replace(limits, request_units=3)) as buyer:
        with pytest.raises(PriceAboveCap, match=r"0.000003 vUSD at most.* to begin and up to"):
            await read(buyer, chat(max_tokens=200))
    cheap = replace(limits, completion_price_units=1)
    async with network.buyer(limits=cheap) as buyer:
        with pytest.raises(PriceAboveCap, match="caps"):
            await read(buyer, chat())


async def test_an_answer_that_may_cost_no_more_is_not_continued_elsewhere(network: Network) -> None:
    """The refusal says what arrived cost, the bound, and which option has it continued."""
    engine, body = network.nodes["b"].engine, chat(max_tokens=120)
    prompt_tokens = len(engine.render(body["messages"]))
    cap_units = PRICES["b"].amount_units(prompt_tokens, 80)
    limits = replace(limits_in(DEPLOYMENT), request_units=cap_units)
    async with network.buyer(limits=limits) as buyer:
        with pytest.raises(PriceAboveCap, match="--max-per-request") as refused:
            async with buyer.ask(body) as answer:
                async for _ in answer:
                    if len(answer.text) >= 40 and not answer.parts:
                        await cut(network.nodes["b"])
        most = amount(cap_units, DEPLOYMENT)
        assert refused.value.detail.startswith(f"what arrived of the answer cost {most}, and one")
        assert await network.billed("c") == 0


async def test_a_request_is_asked_of_a_bounded_number_of_nodes(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many nodes sell an adapter, so many may be paid for one prompt and no more."""
    async with network.buyer() as buyer:
        assert (await read(buyer, chat())).parts[0].node == network.address("b")
        await cut(network.nodes["b"])
        monkeypatch.setattr(network_buyer_module, "NODES_ASKED", 1)
        with pytest.raises(NodeUnreachable):
            await read(buyer, chat(seed=2))
        assert not network.served("c")
        monkeypatch.setattr(network_buyer_module, "NODES_ASKED", 2)
        assert (await read(buyer, chat(seed=3))).parts[-1].node == network.address("c")


async def test_a_small_deposit_is_refused_before_it_is_signed(network: Network) -> None:
    """A node's least deposit above the buyer's most: nothing leaves the wallet."""
    async with network.buyer(budget=Budget(10)) as buyer:
        with pytest.raises(Exception, match="max-deposit"):
            await read(buyer, chat())
    assert network.chain.channels == {}


async def test_two_processes_of_one_buyer_count_one_day(network: Network) -> None:
    """What another process spent counts here at once."""
    day = Budget(DEPOSIT, day_units=900)
    async with network.buyer(budget=day) as buyer:
        await read(buyer, chat(max_tokens=40))
        file = NetworkFile(network.folder / "buyer")
        file.change(lambda record: record.spending(day_of(network.chain.clock.now), 600))
        with pytest.raises(BudgetSpent):
            await read(buyer, chat(max_tokens=40))
        spending = await buyer.spending_report()
        assert int(spending["today"]) > 600 and spending["maxPerDay"] == "900"
        assert len(spending["channels"]) == 1 and int(spending["left"]) > 0


async def test_many_answers_at_once_share_the_budget(network: Network) -> None:
    """Requests that run together reserve what they may cost: the day's bound holds."""
    day = Budget(DEPOSIT, day_units=1_500)
    async with network.buyer(budget=day) as buyer:
        done = await asyncio.gather(
            *(read(buyer, chat(seed=number)) for number in range(12)), return_exceptions=True
        )
        failed = [each for each in done if isinstance(each, BaseException)]
        assert 0 < len(failed) < 12 and all(isinstance(each, BudgetSpent) for each in failed)
        assert int((await buyer.spending_report())["today"]) <= 1_500
