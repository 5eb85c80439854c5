"""Build a network buyer from its home folder, its budget and, if given, its chain endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from viz.buyer.client import BuyerClient
from viz.buyer.ledger.folders import directories_in, node_of
from viz.buyer.ledger.network_record import NetworkFile
from viz.buyer.ledger.spending import channels_on_disk
from viz.buyer.network.budget import Budget
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.network.finder import ASKED_AT_ONCE, NodeFinder, checked_urls
from viz.buyer.network.pool import HeldClient, NodePool
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.counting import TokenCount
from viz.buyer.wallet.wallet import Wallet
from viz.clock import SystemClock
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.ports.clock import Clock
from viz.domain.units import Address, Units
from viz.outbound import Outbound, guarded_session, require_allowed


@dataclass(frozen=True, slots=True)
class NetworkSources:
    """Where a buyer looks for nodes: URLs and, if given, its own chain endpoint.

    ``urls`` are asked if the buyer has never named a node; ``tried``: nobody named these either.
    ``private_addresses`` also allows strangers' URLs with private addresses, for tests.
    """

    urls: Sequence[str] = ()
    chain: ChainReader | None = None
    private_addresses: bool = False
    tried: bool = False


def node_finder(
    deployment: Deployment,
    file: NetworkFile,
    sources: NetworkSources,
    *,
    known_http: Outbound,
    strangers_http: Outbound,
    clock: Clock,
    allowed: Collection[Address] = (),
    allowed_http: Outbound | None = None,
) -> NodeFinder:
    """Return a finder that starts from the URLs named before and those of ``sources``.

    ``allowed`` are the nodes that the buyer named by address.
    """
    record = file.read()
    return NodeFinder(
        deployment,
        clock,
        known_http=known_http,
        strangers_http=strangers_http,
        chain=sources.chain,
        urls=checked_urls(record.urls or sources.urls),
        named=bool(record.urls) or not sources.tried,
        met={node: each.url for node, each in record.nodes.items()},
        paid=[node_of(each) for each in directories_in(file.home, deployment)],
        allowed=allowed,
        allowed_http=allowed_http,
    )


@asynccontextmanager
async def network_buyer(
    deployment: Deployment,
    sources: NetworkSources,
    *,
    home: Path,
    password: str,
    budget: Budget,
    limits: Limits,
    wallet: Wallet | None = None,
    held: HeldClient | None = None,
    clock: Clock | None = None,
    count_tokens: TokenCount | None = None,
    scrypt_n: int | None = None,
) -> AsyncIterator[NetworkBuyer]:
    """Yield a buyer of all nodes; release its channels at the end.

    ``held`` is called with each channel's client when it is made. No node is asked yet. Raises
    InvalidKeyFile, BooksMismatch.
    """
    clock, file = clock or SystemClock(), NetworkFile(home)
    async with AsyncExitStack() as ends:
        known_http = Outbound(private_addresses=True)
        strangers_http = Outbound(
            private_addresses=sources.private_addresses, connections=ASKED_AT_ONCE
        )
        allowed_http = Outbound(private_addresses=sources.private_addresses)
        for each in (known_http, strangers_http, allowed_http):
            ends.push_async_callback(each.close)
        finder = node_finder(
            deployment,
            file,
            sources,
            known_http=known_http,
            strangers_http=strangers_http,
            clock=clock,
            allowed=budget.nodes,
            allowed_http=allowed_http,
        )
        ends.push_async_callback(finder.aclose)
        mine = await ends.enter_async_context(aiohttp.ClientSession())
        strangers = await ends.enter_async_context(
            guarded_session(private_addresses=sources.private_addresses)
        )

        async def connect(url: str) -> BuyerClient:
            if not finder.knows(url):
                require_allowed(url, private_addresses=sources.private_addresses)
            return await BuyerClient.connect(
                mine if finder.knows(url) else strangers,
                url,
                home=home,
                password=password,
                expected=deployment,
                limits=limits,
                clock=clock,
                chain=sources.chain,
                count_tokens=count_tokens,
                scrypt_n=scrypt_n,
            )

        unspent_units = await asyncio.to_thread(left_on_disk, home, deployment)
        pool = NodePool(connect, budget, wallet=wallet, unspent_units=unspent_units, held=held)
        ends.push_async_callback(pool.aclose)
        buyer = NetworkBuyer(
            finder,
            pool,
            file,
            budget=budget,
            limits=limits,
            deployment=deployment,
            clock=clock,
        )
        ends.callback(buyer.day.close)
        yield buyer


def left_on_disk(home: Path, deployment: Deployment) -> dict[Address, Units]:
    """Return what is left of the deposit at each node, read from the channels' files.

    Of a channel whose key or ledger cannot be read it is 0: it is not paid from, and no new deposit
    is made there.
    """
    found: dict[Address, Units] = {}
    for kept, channel in channels_on_disk(home, deployment):
        if kept.former:
            continue
        if channel is None or kept.signer is None:
            found[kept.node] = 0
        elif channel.limit_units or channel.billed:
            found[kept.node] = max(0, channel.limit_units - sum(channel.billed.values()))
    return found
