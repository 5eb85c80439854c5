"""What all nodes sell: asked over HTTP, checked against the chain, and listed only then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from aiohttp import web
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.impatience import waits_a_moment_for
from tests.fakes.ledger import MemoryStore
from tests.fakes.remote_nodes import (
    BASE,
    Remote,
    announce,
    base_offer,
    info,
    offer,
    register,
    serving,
)
from tests.unit.services.market.test_listings import OWNER, LicensedChain, signed

from viz.domain.ports.chain import ContentState, NodeEntry
from viz.domain.ports.ledger import OfferedWork
from viz.domain.units import BASE_MODEL, ZERO_HASH, AdapterId, ContentId, Hash32
from viz.outbound import Outbound
from viz.protocol.market import MarketModel
from viz.protocol.messages import AdapterOffer, NodeInfo, ServedBase
from viz.services.market import remote_nodes
from viz.services.market.discovery import Discovery, NodeOffers
from viz.services.market.listings import Listings
from viz.services.market.remote_nodes import ASKED_A_ROUND, KEPT_S, LIED_S, MAX_BASES

OWN, B, C, TRAINER = (address_of(number) for number in (0xA1, 0xB1, 0xC1, 0x71))


@pytest.fixture
def chain() -> LicensedChain:
    made = LicensedChain(b"\x11" * 32)
    for number in (7, 8):
        register(made, number, TRAINER)
        made.works[ContentId(number)] = ContentState(
            ContentId(number), OWNER, OWNER, ZERO_HASH, ZERO_HASH, 0
        )
    return made


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(private_addresses=True)
    yield made
    await made.close()


def discovery(chain: FakeChain, http: Outbound, *offers: Any) -> Discovery:
    own = NodeOffers(
        OWN, "http://own.test", ServedBase(BASE, ZERO_HASH, 2048), (base_offer(9), *offers)
    )
    return Discovery(
        chain,
        http,
        chain.clock,
        Listings(MemoryStore(), chain, chain.clock),
        known=lambda: [own],
        own=OWN,
    )


def sold_by(found: Discovery) -> dict[str, list[str]]:
    """Return who sells each model."""
    return {model.model: sorted(each.node for each in model.offers) for model in found.index.models}


def model(found: Discovery, name: str) -> MarketModel:
    (one,) = (each for each in found.index.models if each.model == name)
    return one


async def test_the_market_is_what_all_nodes_sell(chain: LicensedChain, outbound: Outbound) -> None:
    """Price and latency of each node; trainer, shares and terms of the chain; the owner's words."""
    b = Remote(B, info(B, [base_offer(5), offer(7, 4), offer(8, 1, name="of B")]))
    c = Remote(C, info(C, [offer(7, 3, name="of C")]))
    b.listings = (signed(contentId=7, title="The tides of Varn", credit="by Alma"),)
    chain.adapter_states[AdapterId(8)] = replace(chain.adapter_states[AdapterId(8)], trainer=B)
    async with serving(b, c):
        announce(chain, b, c)
        found = discovery(chain, outbound, offer(7, 9))
        await found.step()
    assert sold_by(found) == {
        "fake": sorted([OWN, B]),
        "viz-adapter-7": sorted([OWN, B, C]),
        "viz-adapter-8": [B],
    }
    seven = model(found, "viz-adapter-7")
    assert [each.node for each in seven.offers] == [C, B, OWN], "the cheapest first"
    assert seven.offers[0].url == c.url and seven.offers[0].seen_at_s == chain.clock.now
    assert (seven.trainer, seven.royalty_bps, seven.card and seven.card.right) == (
        TRAINER,
        3_000,
        9,
    )
    assert seven.name == "tides 7", "what most nodes say, since the trainer does not serve it"
    (work,) = seven.works
    assert (work.title, work.credit, work.listed) == ("The tides of Varn", "by Alma", True)
    assert (work.share_bps, work.uses) == (10_000, 31)
    eight = model(found, "viz-adapter-8")
    assert (eight.name, eight.told_by) == ("of B", B)
    assert (eight.works[0].title, eight.works[0].listed) == ("The sea, part 8", False)


LIES: dict[str, Callable[[NodeInfo], NodeInfo]] = {
    "another node answers": lambda said: replace(said, node=OWN),
    "as its Settlement": lambda said: replace(said, settlement=address_of(1)),
    "as its chain id": lambda said: replace(said, chain_id=1),
    "other weights": lambda said: replace(
        said, adapters=(offer(7, weights_digest=Hash32(b"\1" * 32)),)
    ),
    "another base model": lambda said: replace(said, base_digest=ZERO_HASH, adapters=(offer(7),)),
    "work 8, which it was not": lambda said: replace(
        said, adapters=(offer(7, works=(OfferedWork(ContentId(8), "Another's"),)),)
    ),
    "one adapter or one base model twice": lambda said: replace(
        said, adapters=(offer(7), offer(7, 1))
    ),
    "under the name": lambda said: replace(said, adapters=(offer(7, model="viz-adapter-8"),)),
    "which no base model may have": lambda said: replace(
        said, adapters=(replace(base_offer(), model="VIZ-Adapter-7"),)
    ),
    "than its base": lambda said: replace(
        said, adapters=(replace(base_offer(), weights_digest=ZERO_HASH),)
    ),
}


@pytest.mark.parametrize("fault", LIES)
async def test_a_node_that_lies_is_left_out_and_named(
    chain: LicensedChain, outbound: Outbound, fault: str
) -> None:
    """One contradiction and nothing of that node is listed, for an hour; the others stay."""
    honest = info(B, [offer(8)])
    b, c = Remote(B, LIES[fault](honest)), Remote(C, info(C, [offer(7)]))
    async with serving(b, c):
        announce(chain, b, c)
        found = discovery(chain, outbound)
        with structlog.testing.capture_logs() as logs:
            await found.step()
        assert sold_by(found) == {"fake": [OWN], "viz-adapter-7": [C]}
        (named,) = (each for each in logs if each["event"] == "a node is left out")
        assert named["node"] == B and fault in named["reason"]
        b.answers, asked = honest, len(b.asked)
        chain.clock.now += LIED_S - 1
        await found.step()
        assert len(b.asked) == asked and "viz-adapter-8" not in sold_by(found)
        chain.clock.now += 2
        await found.step()
        assert sold_by(found)["viz-adapter-8"] == [B]


async def test_a_node_with_several_base_models_is_listed(
    chain: LicensedChain, outbound: Outbound
) -> None:
    """All base models have the id 0, so such a node seemed to offer one adapter twice."""

    def bases(count: int) -> list[AdapterOffer]:
        each = [Hash32(number.to_bytes(32, "big")) for number in range(1, count + 1)]
        return [
            AdapterOffer(BASE_MODEL, f"base {digest[-1]}", digest, 1, 1, base=based(digest))
            for digest in each
        ]

    b, c = Remote(B, info(B, [base_offer(2), *bases(2)])), Remote(C, info(C, bases(MAX_BASES + 1)))
    async with serving(b, c):
        announce(chain, b, c)
        found = discovery(chain, outbound)
        with structlog.testing.capture_logs() as logs:
            await found.step()
    assert sold_by(found) == {"base 1": [B], "base 2": [B], "fake": sorted([OWN, B])}
    assert any("base models" in each.get("reason", "") for each in logs)


def based(digest: Hash32) -> ServedBase:
    return ServedBase(digest, ZERO_HASH, 2048)


async def test_what_a_node_may_not_serve_is_not_listed(
    chain: LicensedChain, outbound: Outbound
) -> None:
    """The trainer's permission is the chain's word; a revocation on its way is no lie."""
    chain.unservable[AdapterId(7)] = "its trainer has not permitted this node to serve it"
    b = Remote(B, info(B, [offer(7), offer(8), offer(99)]))
    async with serving(b):
        announce(chain, b)
        found = discovery(chain, outbound)
        await found.step()
    assert sold_by(found) == {"fake": [OWN], "viz-adapter-8": [B]}


async def rubbish(_: web.Request) -> web.Response:
    return web.Response(text="<html>hello</html>")


async def huge(_: web.Request) -> web.Response:
    return web.Response(text=json.dumps({"adapters": ["x" * 1_000] * 10_000}))


async def deep(_: web.Request) -> web.Response:
    return web.Response(text="[" * 100_000)


async def wrong(_: web.Request) -> web.Response:
    return web.json_response({"node": 7, "adapters": {}})


async def silent(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    raise AssertionError("nobody waits so long")


async def elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def broken(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("answers", [rubbish, huge, deep, wrong, silent, elsewhere, broken, None])
async def test_a_node_that_answers_nonsense_harms_nobody(
    chain: LicensedChain, outbound: Outbound, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rubbish, 10 MB of JSON, silence, redirects: bounded, logged, and the round goes on."""
    b, c = Remote(B, answers), Remote(C, info(C, [offer(7)]))
    async with serving(b, c):
        if answers is silent:
            waits_a_moment_for(monkeypatch, outbound, b.url)
        announce(chain, b, c)
        found = discovery(chain, outbound)
        with structlog.testing.capture_logs() as logs:
            await found.step()
    assert sold_by(found) == {"fake": [OWN], "viz-adapter-7": [C]}
    (named,) = (each for each in logs if each["event"] == "a node does not answer")
    assert named["node"] == B and named["reason"]


async def test_two_nodes_with_one_url_are_asked_once_and_one_is_listed(
    chain: LicensedChain, outbound: Outbound
) -> None:
    """An entry that points at a stranger's server gets nothing, and that server one question."""
    b = Remote(B, info(B, [offer(7)]))
    async with serving(b):
        announce(chain, b)
        for number in range(20):
            thief = address_of(0x500 + number)
            chain.directory[thief] = NodeEntry(thief, 0, b.url + "/" * (number % 2), "")
        found = discovery(chain, outbound)
        with structlog.testing.capture_logs() as logs:
            await found.step()
    assert sold_by(found) == {"fake": [OWN], "viz-adapter-7": [B]}
    assert len([path for path in b.asked if path.endswith("/node")]) == 1
    assert len([each for each in logs if each["event"] == "a node is left out"]) == 20


ODD_URLS = [
    "ftp://node.example",
    "http://user:secret@node.example",
    "http://node.example/path",
    "http://node.example?x=1",
    "http://",
    "http://node.example:99999",
    "http://node.example\u202e",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("url", ODD_URLS)
async def test_an_entry_without_a_usable_url_is_not_asked(
    chain: LicensedChain, outbound: Outbound, url: str
) -> None:
    """What anybody can write on chain is judged before a connection is made."""
    chain.directory[B] = NodeEntry(B, 0, url, "")
    found = discovery(chain, outbound)
    with structlog.testing.capture_logs() as logs:
        await found.step()
    assert sold_by(found) == {"fake": [OWN]}
    assert [each["event"] for each in logs] == ["a node is left out"]


async def test_private_addresses_are_not_asked(chain: LicensedChain) -> None:
    """An entry that points into this machine or network reaches nothing there."""
    b = Remote(B, info(B, [offer(7)]))
    async with serving(b):
        announce(chain, b)
        port = b.url.rpartition(":")[2]
        for number, host in enumerate(("localhost", "[::1]", "10.0.0.1", "169.254.169.254")):
            node = address_of(0x600 + number)
            chain.directory[node] = NodeEntry(node, 0, f"http://{host}:{port}", "")
        strict = Outbound()
        found = discovery(chain, strict)
        await found.step()
        await strict.close()
    assert b.asked == [] and sold_by(found) == {"fake": [OWN]}


async def test_a_node_that_is_gone_leaves_the_market_and_comes_back(
    chain: LicensedChain, outbound: Outbound
) -> None:
    """One missed answer changes nothing; later the node is not offered to buyers any more."""
    b = Remote(B, info(B, [offer(7)]))
    async with serving(b):
        announce(chain, b)
        found = discovery(chain, outbound)
        await found.step()
        b.answers = None
        await found.step()
        assert sold_by(found)["viz-adapter-7"] == [B]
        chain.clock.now += KEPT_S + 1
        await found.step()
        assert sold_by(found) == {"fake": [OWN]}
        b.answers = info(B, [offer(7, 1)])
        chain.clock.now += KEPT_S
        await found.step()
        assert model(found, "viz-adapter-7").offers[0].prompt_price_units == 1
        del chain.directory[B]
        await found.step()
        assert sold_by(found) == {"fake": [OWN]}


async def test_a_crowd_of_entries_does_not_push_out_those_that_answered(
    chain: LicensedChain, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries cost an attacker little: a round asks a bounded number, known nodes first."""
    b = Remote(B, info(B, [offer(7)]))
    async with serving(b):
        announce(chain, b)
        found = discovery(chain, outbound)
        await found.step()
        for number in range(ASKED_A_ROUND + 50):
            node = address_of(0x9000 + number)
            chain.directory[node] = NodeEntry(node, 0, f"http://127.0.0.{number % 250 + 2}:1", "")
        monkeypatch.setattr(remote_nodes, "ASKED_A_ROUND", 3)
        for _ in range(4):
            chain.clock.now += 1
            await found.step()
    assert len([path for path in b.asked if path.endswith("/node")]) == 5
    assert sold_by(found)["viz-adapter-7"] == [B]


async def test_a_listing_is_taken_over_once_and_only_if_its_owner_signed_it(
    chain: LicensedChain, outbound: Outbound
) -> None:
    """A node can pass on a listing, and cannot write one."""
    forged = signed(b"\x55" * 32, contentId=8, title="Another's title")
    b = Remote(B, info(B, [offer(7), offer(8)]), (signed(contentId=7), forged))
    async with serving(b):
        announce(chain, b)
        found = discovery(chain, outbound)
        await found.step()
        titles = [model(found, f"viz-adapter-{each}").works[0].title for each in (7, 8)]
        assert titles == ["The keeper of Varn Point", "The sea, part 8"]
        reads = chain.reads
        await found.step()
        assert chain.reads - reads <= 1, "one page of the directory, and nothing is verified again"
