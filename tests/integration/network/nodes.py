"""Whole nodes on a real chain, each with its own folder, store and HTTP server on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from tests.fakes.engine import FakeEngine
from tests.fakes.http_server import serving
from tests.integration.api.harness import OPERATOR_TOKEN, PRICE, service_settings
from tests.integration.chain.testnet import Testnet
from tests.integration.services.claiming import SystemClock

from viz.api.app import create_app, create_runner
from viz.api.context import ApiLimits, NodeContext, NodeTerms
from viz.chain.keys import development_account
from viz.chain.sender import Sender
from viz.composition.services import build_services, node_context, restore
from viz.composition.settings import Backends, NetworkSettings, ServiceSettings
from viz.domain.engines import Engines
from viz.domain.ports.blobs import BlockStore
from viz.domain.ports.engine import Engine
from viz.domain.ports.transactions import Call
from viz.domain.units import Address
from viz.local_socket import free_port
from viz.outbound import Outbound
from viz.services.custody.custodian import CustodyPolicy
from viz.services.payments.relay_budget import RelayPolicy
from viz.services.serving.paid_stream import ServingPolicy
from viz.services.withdrawal.withdrawal_watch import WithdrawalWatch
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.key_folder import KeyFolder
from viz.storage.sealing import new_identity, recipient_of
from viz.storage.sources import SourcedBlobs
from viz.store.ledger import SqlStore


@dataclass
class RealNode:
    """A running node and its insides."""

    url: str
    folder: Path
    sender: Sender
    parts: NodeContext
    blobs: DenyingBlobStore
    store: SqlStore
    engine: Engine
    peers: Outbound
    age_key: str
    withdrawals: WithdrawalWatch
    runner: web.AppRunner
    clock: SystemClock

    @property
    def address(self) -> Address:
        return self.sender.address

    async def operate(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one of the operator's commands."""
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        return await self.call(method, f"/operator/v1{path}", body=body, headers=headers)

    async def call(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send a request and return its status and JSON."""
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, json=body, headers=headers) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Send bytes and return the answer's status and JSON."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(self.url + path, data=body, headers=headers) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def announce(self) -> None:
        """Write this node into the directory."""
        sent = await self.sender.submit(Call("NodeDirectory", "announce", (self.url, self.age_key)))
        sent.require_mined("the announcement")

    async def cut(self) -> None:
        """End every connection and take none: what others see of a node that is killed."""
        for site in list(self.runner.sites):
            await site.stop()
        assert self.runner.server is not None
        for connection in list(self.runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def files(self) -> dict[str, bytes]:
        """Return every file below the node's folder, by its path there."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@asynccontextmanager
async def real_node(
    net: Testnet,
    folder: Path,
    account: int,
    *,
    custody: CustodyPolicy | None = None,
    private_addresses: bool = True,
    block_timeout_s: float = 2.0,
    engine: Engine | None = None,
    serves: bool = True,
    blobs: BlockStore | None = None,
) -> AsyncIterator[RealNode]:
    """Run the node of a development account; without an ``engine`` it invents answers.

    One that does not ``serve`` has no model.

    Without ``blobs`` it has an embedded store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, sender = free_port(), net.sender(account)
    url, clock = f"http://127.0.0.1:{port}", SystemClock()
    store = await SqlStore.open(folder / "ledger.db", {"node": sender.address})
    denied = DenyList(folder / "withdrawn.deny")
    kept = DenyingBlobStore(blobs or EmbeddedBlobStore(folder / "blobs"), denied)
    peers = Outbound(private_addresses=private_addresses)
    engine, identity = engine or FakeEngine(context_tokens=2048), new_identity()
    key = bytes(development_account(account).key)
    sources = SourcedBlobs(kept, peers, folder / "incoming", block_timeout_s=block_timeout_s)
    backends = Backends(
        store,
        net.chain,
        sender,
        Engines([engine] if serves else ()),
        kept,
        KeyFolder(folder / "keys"),
        sources,
        peers,
        clock,
        key,
        identity,
    )
    settings: ServiceSettings = service_settings(
        folder,
        ServingPolicy(step_tokens=8, voucher_grace_s=5),
        RelayPolicy(),
        PRICE,
        0,
        development=True,
    )
    settings = replace(
        settings,
        sessions=replace(settings.sessions, origin=url),
        custody=custody or settings.custody,
        network=NetworkSettings(url, private_addresses=private_addresses),
    )
    services = build_services(backends, settings)
    await restore(backends, services)
    terms = NodeTerms(100_000, OPERATOR_TOKEN, recipient_of(identity))
    parts = node_context(backends, services, terms)
    runner = create_runner(create_app(parts, ApiLimits()), shutdown_timeout_s=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield RealNode(
            url,
            folder,
            sender,
            parts,
            kept,
            store,
            engine,
            peers,
            recipient_of(identity),
            services.withdrawals,
            runner,
            clock,
        )
    finally:
        await runner.cleanup()
        await peers.close()
        await engine.close()
        await store.close()


@asynccontextmanager
async def liar(answers: dict[str, Any]) -> AsyncIterator[str]:
    """Serve what a test says instead of a node; yield its URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        for start, said in answers.items():
            if request.path.startswith(start):
                return web.Response(body=said) if isinstance(said, bytes) else await said(request)
        raise web.HTTPNotFound

    async with serving([web.route("*", "/{path:.*}", answer)]) as url:
        yield url


async def listed(net: Testnet, account: int, url: str) -> None:
    """Write a URL into the directory for a development account."""
    sent = await net.sender(account).submit(Call("NodeDirectory", "announce", (url, "")))
    sent.require_mined("the announcement")
