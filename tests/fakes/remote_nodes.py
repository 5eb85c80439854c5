"""Other nodes over real HTTP: each answers what a test gives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.fakes.chain import DEPLOYMENT, TOKEN_DOMAIN, FakeChain

from viz.domain.card import ReportCard
from viz.domain.ports.chain import AdapterState, NodeEntry
from viz.domain.ports.ledger import OfferedWork
from viz.domain.units import UINT64_MAX, ZERO_HASH, AdapterId, Address, Cid, ContentId, Hash32
from viz.protocol.listing import LISTINGS_PATH, SignedListing, listings_to_json
from viz.protocol.market import MARKET_PATH, MarketModel, MarketPage
from viz.protocol.messages import AdapterOffer, NodeInfo, adapter_model
from viz.protocol.payment import NODE_PATH

BASE = Hash32(b"\x0b" * 32)
TOKENIZER = Hash32(b"\x0c" * 32)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def digest_of(adapter_id: int) -> Hash32:
    """Return the weights' digest that tests register for an adapter."""
    return Hash32(adapter_id.to_bytes(32, "big"))


def base_offer(units: int = 2) -> AdapterOffer:
    return AdapterOffer(AdapterId(0), "fake", BASE, units, 3 * units, name="fake")


def offer(adapter_id: int, units: int = 2, **changes: Any) -> AdapterOffer:
    """Return an honest offer; ``changes`` replace members."""
    values: dict[str, Any] = {
        "adapter_id": AdapterId(adapter_id),
        "model": adapter_model(AdapterId(adapter_id)),
        "weights_digest": digest_of(adapter_id),
        "prompt_price_units": units,
        "completion_price_units": 3 * units,
        "name": f"tides {adapter_id}",
        "description": "knows the tides",
        "works": (OfferedWork(ContentId(adapter_id), f"The sea, part {adapter_id}"),),
        "card": ReportCard(10, 9, 1, 20, 19),
    }
    return AdapterOffer(**{**values, **changes})


def info(node: Address, offers: Sequence[AdapterOffer], **changes: Any) -> NodeInfo:
    """Return an honest description; ``changes`` replace members."""
    values: dict[str, Any] = {
        "node": node,
        "chain_id": DEPLOYMENT.chain_id,
        "settlement": DEPLOYMENT.settlement,
        "content_registry": DEPLOYMENT.content_registry,
        "adapter_registry": DEPLOYMENT.adapter_registry,
        "token": DEPLOYMENT.token,
        "token_name": TOKEN_DOMAIN.name,
        "token_version": TOKEN_DOMAIN.version,
        "token_decimals": DEPLOYMENT.token_decimals,
        "chain_time_s": 1,
        "base_model": "fake",
        "base_digest": BASE,
        "tokenizer_digest": TOKENIZER,
        "context_tokens": 2048,
        "suggested_deposit_units": 10,
        "minimum_deposit_units": 1,
        "minimum_step_units": 1,
        "adapters": tuple(offers),
    }
    return NodeInfo(**{**values, **changes})


def register(chain: FakeChain, adapter_id: int, trainer: Address) -> None:
    """Put an adapter on chain as ``offer`` describes it, with one work of the same number."""
    chain.adapter_states[AdapterId(adapter_id)] = AdapterState(
        AdapterId(adapter_id),
        trainer,
        BASE,
        digest_of(adapter_id),
        Cid("bafy"),
        ZERO_HASH,
        3_000,
        1_000,
        UINT64_MAX,
        ((ContentId(adapter_id), 10_000),),
    )


@dataclass
class Remote:
    """One node: what it answers, and which paths it was asked for."""

    node: Address
    answers: NodeInfo | Answer | None = None
    listings: tuple[SignedListing, ...] = ()
    market: tuple[MarketModel, ...] = ()
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def describe(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.answers is None:
            return web.Response(status=503)
        if isinstance(self.answers, NodeInfo):
            return web.json_response(self.answers.to_json())
        return await self.answers(request)

    async def list(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        after = int(request.query.get("after", 0))
        page = tuple(each for each in self.listings if each.listing.content_id > after)
        return web.json_response(listings_to_json(page, None))

    async def sell(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return web.json_response(MarketPage(self.market, len(self.market), 1, 0).to_json())


@asynccontextmanager
async def serving(*remotes: Remote) -> AsyncIterator[None]:
    """Serve each node on a free port of this machine; their URLs are set."""
    runners: list[web.AppRunner] = []
    try:
        for remote in remotes:
            app = web.Application()
            app.router.add_get(NODE_PATH, remote.describe)
            app.router.add_get(LISTINGS_PATH, remote.list)
            app.router.add_get(MARKET_PATH, remote.sell)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            remote.url = f"http://{host}:{port}"
        yield
    finally:
        await asyncio.gather(*(runner.cleanup() for runner in runners))


def announce(chain: FakeChain, *remotes: Remote) -> None:
    """Put the nodes' URLs into the directory by fiat."""
    for remote in remotes:
        chain.directory[remote.node] = NodeEntry(remote.node, chain.clock.now, remote.url, "")
