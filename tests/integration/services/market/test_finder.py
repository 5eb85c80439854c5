"""A buyer's search in the directory: strangers cost it little time, and hide no node it paid."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog
from aiohttp import web
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.remote_nodes import Remote, announce, base_offer, info, offer, register, serving

from viz import outbound as outbound_module
from viz.buyer.network import finder as finder_module
from viz.buyer.network.finder import NodeFinder
from viz.domain.ports.chain import NodeEntry
from viz.domain.units import Address
from viz.errors import NodeUnreachable
from viz.outbound import Outbound
from viz.services.market import remote_nodes
from viz.services.market.discovery import NodeOffers, unchecked_models

B, TRAINER = address_of(0xB1), address_of(0x71)


@pytest.fixture
def chain() -> FakeChain:
    made = FakeChain(b"\x11" * 32)
    register(made, 7, TRAINER)
    return made


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(private_addresses=True)
    yield made
    await made.close()


def finder_of(
    known: FakeChain, http: Outbound, paid: Sequence[Address] = (), **changes: Any
) -> NodeFinder:
    """Return the finder of a buyer that named no node and paid these; ``changes`` are arguments."""
    given: dict[str, Any] = {"known_http": http, "strangers_http": http, "paid": paid}
    given |= {"chain": known, "urls": (), "met": {}}
    return NodeFinder(known.deployment, known.clock, **{**given, **changes})


async def silent(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    raise AssertionError("nobody waits so long")


async def test_silent_strangers_do_not_make_a_buyer_wait_for_each(
    chain: FakeChain, outbound: Outbound
) -> None:
    """Protects the buyer from cheap entries: many are asked together, and who answers is found.

    Each stranger answers only when all were asked: asked in smaller groups, none would.
    """
    all_asked, count = asyncio.Barrier(16), 16

    async def together(_: web.Request) -> web.StreamResponse:
        await all_asked.wait()
        return web.Response(status=503)

    strangers = [Remote(address_of(0x200 + number), together) for number in range(count)]
    seller = Remote(B, info(B, [base_offer(2), offer(7)]))
    async with serving(*strangers, seller):
        announce(chain, *strangers, seller)
        finder = finder_of(chain, outbound)
        with structlog.testing.capture_logs() as logs:
            models = await finder.models()
    assert {each.node for model in models for each in model.offers} == {B}
    reasons = [each["reason"] for each in logs if each["event"] == "a node does not answer"]
    assert len(reasons) == count and not any("did not answer within" in each for each in reasons)


async def test_a_search_that_found_nobody_is_repeated_soon(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search in a short outage made a running proxy refuse everything for five minutes."""
    finder = finder_of(chain, outbound)
    with pytest.raises(NodeUnreachable):
        await finder.models()
    seller = Remote(B, info(B, [base_offer(2)]))
    async with serving(seller):
        announce(chain, seller)
        with pytest.raises(NodeUnreachable):
            await finder.models()
        monkeypatch.setattr(finder_module, "AGAIN_S", -1.0)
        assert await finder.models()


async def test_a_question_waits_for_no_search_after_the_first(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every five minutes a question to the proxy waited 18 s for a directory of dead entries."""
    answers, asked = asyncio.Event(), asyncio.Event()
    stranger_address = address_of(0x200)

    async def when_told(_: web.Request) -> web.StreamResponse:
        asked.set()
        await answers.wait()
        return web.json_response(info(stranger_address, [base_offer(3)]).to_json())

    seller, stranger = Remote(B, info(B, [base_offer(2)])), Remote(stranger_address, when_told)
    async with serving(seller, stranger):
        announce(chain, seller)
        finder = finder_of(chain, outbound)
        before = await finder.models()
        announce(chain, stranger)
        monkeypatch.setattr(finder_module, "FRESH_S", -1.0)
        assert await finder.models() == before
        await asyncio.wait_for(asked.wait(), 10)
        assert await finder.models() == before, "a second question starts no second search"
        answers.set()
        after = await finder.models(again=True)
        assert {each.node for model in after for each in model.offers} == {B, stranger_address}
        answers.clear()
        asked.clear()
        await finder.models()
        await asyncio.wait_for(asked.wait(), 10)
        await asyncio.wait_for(finder.aclose(), 10)


async def test_what_was_found_long_ago_is_searched_again_before_use(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old offers are used for an hour at most: then the question waits for the search."""
    seller = Remote(B, info(B, [base_offer(2)]))
    other = Remote(address_of(0x200), info(address_of(0x200), [base_offer(3)]))
    async with serving(seller, other):
        announce(chain, seller)
        finder = finder_of(chain, outbound)
        await finder.models()
        announce(chain, other)
        monkeypatch.setattr(finder_module, "FRESH_S", -1.0)
        monkeypatch.setattr(finder_module, "USED_MEANWHILE_S", -1.0)
        found = await finder.models()
    assert {each.node for model in found for each in model.offers} == {B, other.node}


async def test_a_flooded_directory_hides_no_node_that_the_buyer_paid(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paid node is asked first, beyond the bound of a round, which strangers fill; and their odd
    entries are told in a few lines, each of which names one, not one each."""
    monkeypatch.setattr(remote_nodes, "ASKED_A_ROUND", 0)
    paid = Remote(B, info(B, [base_offer(2)]))
    async with serving(paid):
        announce(chain, paid)
        for number in range(8):
            node = address_of(0x300 + number)
            chain.directory[node] = NodeEntry(node, 0, "http://node.example/path", "")
        with structlog.testing.capture_logs() as logs:
            models = await finder_of(chain, outbound, paid=[B]).models()
            with pytest.raises(NodeUnreachable):
                await finder_of(chain, outbound).models()
    assert {each.node for model in models for each in model.offers} == {B}
    warned = [each for each in logs if each["log_level"] == "warning"]
    named = [each for each in warned if each["event"] == "a node is left out"]
    assert len(named) == 2 * remote_nodes.NAMED_A_ROUND
    assert all(each["node"] and each["url"] == "http://node.example/path" for each in named)
    more = 8 - remote_nodes.NAMED_A_ROUND
    assert [each["count"] for each in warned if each not in named] == [more, more]


async def test_one_node_that_was_found_names_the_others(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new buyer asks a small part of a flooded directory at random, and found one node at most.

    What its market names is asked at its own entry's URL only, and checked as all others are.
    """
    monkeypatch.setattr(remote_nodes, "ASKED_A_ROUND", 3)
    first = Remote(B, info(B, [base_offer(2)]))
    second = Remote(address_of(0xB2), info(address_of(0xB2), [base_offer(3)]))
    liar = Remote(address_of(0xB3), info(address_of(0xB2), [base_offer(1)]))
    flood = [Remote(address_of(0x400 + number)) for number in range(40)]
    async with serving(first, second, liar, *flood):
        announce(chain, first, second, liar, *flood)
        named = [(second, "http://127.0.0.1:1"), (liar, liar.url)]
        first.market = tuple(
            unchecked_models(
                NodeOffers.described(info(each.node, [base_offer()]), url, 0, 0)
                for each, url in named
            )
        )
        models = await finder_of(chain, outbound, paid=[B]).models()
    assert {each.node for model in models for each in model.offers} == {B, second.node}
    assert sum(bool(each.asked) for each in flood) <= 2


async def test_a_buyer_s_search_ends_in_its_time(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers that accept and never answer: what answered by then is used."""
    monkeypatch.setattr(finder_module, "ROUND_S", 5.0)  # time for a busy machine
    monkeypatch.setattr(finder_module, "STRANGER_TIMEOUT_S", 60.0)
    quiet = [Remote(address_of(0x200 + number), silent) for number in range(3)]
    seller = Remote(B, info(B, [base_offer(2)]))
    async with serving(*quiet, seller):
        announce(chain, *quiet, seller)
        async with asyncio.timeout(50):
            models = await finder_of(chain, outbound).models()
    assert {each.node for model in models for each in model.offers} == {B}


@pytest.mark.parametrize("own_chain", [True, False], ids=["own chain", "no chain"])
async def test_a_named_node_with_a_slow_name_is_waited_for(
    chain: FakeChain, monkeypatch: pytest.MonkeyPatch, *, own_chain: bool
) -> None:
    """A node that the buyer allows by address fell out of the search when its name resolved slowly:
    it had a stranger's time, and waited behind strangers' names, which never resolve."""
    for module, name, seconds in (
        (finder_module, "STRANGER_TIMEOUT_S", 0.3),
        (finder_module, "ROUND_S", 0.5),
        (outbound_module, "NAME_WAITS_S", 0.2),
    ):
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(outbound_module, "NAMES_AT_ONCE", 2)
    resolve, ended = socket.getaddrinfo, threading.Event()

    def slow(host: str, port: int, *given: Any, **named: Any) -> Any:
        if host.endswith("stranger.test"):
            ended.wait(20)
        if host == "named.test":
            ended.wait(1)
            host = "127.0.0.1"
        return resolve(host, port, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    strangers, mine = (Outbound(private_addresses=True) for _ in range(2))
    seller = Remote(B, info(B, [base_offer(2)]))
    try:
        async with serving(seller):
            seller.url = seller.url.replace("127.0.0.1", "named.test")
            announce(chain, seller)
            for number in range(4):
                node = address_of(0x500 + number)
                chain.directory[node] = NodeEntry(node, 0, f"http://{number}.stranger.test", "")
                with pytest.raises(NodeUnreachable):
                    await strangers.ask("GET", f"http://{number}.stranger.test", timeout_s=0.05)
            given: dict[str, Any] = {} if own_chain else {"chain": None, "met": {B: seller.url}}
            with pytest.raises(NodeUnreachable):
                await finder_of(chain, strangers, **given).models()
            given |= {"allowed": [B], "allowed_http": mine}
            models = await finder_of(chain, strangers, **given).models()
    finally:
        ended.set()
        await asyncio.gather(strangers.close(), mine.close())
    assert {each.node for model in models for each in model.offers} == {B}


async def test_an_allowed_node_that_failed_is_asked_in_the_next_round(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger that failed twice is left for minutes; the node that the buyer allows is not."""
    monkeypatch.setattr(finder_module, "AGAIN_S", -1.0)
    allowed, other = Remote(B), Remote(address_of(0xB2))
    async with serving(allowed, other):
        announce(chain, allowed, other)
        finder = finder_of(chain, outbound, allowed=[B])
        for _ in range(3):
            with pytest.raises(NodeUnreachable):
                await finder.models()
    assert (len(allowed.asked), len(other.asked)) == (3, 2)


def lying(_: web.Request) -> web.StreamResponse:
    return web.json_response({**info(B, [base_offer(2)]).to_json(), "adapters": None})


@pytest.mark.parametrize("reads_chain", [True, False])
async def test_a_node_that_describes_itself_wrongly_is_named_once(
    chain: FakeChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch, reads_chain: bool
) -> None:
    """The log had one line without URL or address for all, or none for a malformed answer."""
    monkeypatch.setattr(finder_module, "AGAIN_S", -1.0)
    monkeypatch.setattr(remote_nodes, "FAILED_S", 0)

    async def answer(request: web.Request) -> web.StreamResponse:
        return lying(request)

    liar = Remote(B, answer)
    async with serving(liar):
        announce(chain, liar)
        met = {} if reads_chain else {B: liar.url}
        changes: dict[str, Any] = {} if reads_chain else {"chain": None}
        finder = finder_of(chain, outbound, met=met, **changes)
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(NodeUnreachable):
                    await finder.models(again=True)
    (warned,) = (each for each in logs if each["log_level"] == "warning")
    assert (warned["node"], warned["url"]) == (B, liar.url) and "adapters" in warned["reason"]
