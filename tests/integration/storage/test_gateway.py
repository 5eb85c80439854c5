"""Fetching from another node over HTTP: from a real Kubo gateway, and from hostile servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, BlobTooLarge, ConfigError, StorageUnavailable
from viz.outbound import Outbound
from viz.storage.gateway import GatewayClient
from viz.storage.kubo import KuboBlobStore
from viz.storage.kubo_daemon import KuboDaemon
from viz.storage.unixfs import CHUNK_BYTES, MAX_BLOCK_BYTES, root_of

DATA = bytes(range(256)) * 1024 * 3 + b"tail"
ROOT = root_of(DATA)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _client(answer: Answer, *, timeout_s: float = 5) -> AsyncIterator[GatewayClient]:
    application = web.Application()
    application.router.add_get("/ipfs/{cid}", answer)
    server = TestServer(application)
    await server.start_server()
    peers = Outbound(private_addresses=True)
    yield GatewayClient(peers, str(server.make_url("/")), timeout_s=timeout_s)
    await peers.close()
    await server.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_blob_comes_from_any_trustless_gateway(daemon: KuboDaemon, tmp_path: Path) -> None:
    """A node without a daemon reads what a Kubo node published."""
    store = KuboBlobStore(daemon.api)
    assert await store.add(DATA) == ROOT
    peers = Outbound(private_addresses=True)
    client = GatewayClient(peers, daemon.gateway)
    assert await client.fetch(ROOT, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
    await peers.close()
    assert (tmp_path / "out").read_bytes() == DATA
    await store.close()


async def _other_bytes(_: web.Request) -> web.Response:
    return web.Response(body=b"something else")


async def _absent(_: web.Request) -> web.Response:
    return web.Response(status=404)


async def _broken(_: web.Request) -> web.Response:
    return web.Response(status=500)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(2 * MAX_BLOCK_BYTES // CHUNK_BYTES):
        await response.write(bytes(CHUNK_BYTES))
    return response


async def _silent(_: web.Request) -> web.Response:
    await asyncio.sleep(5)
    return web.Response()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_other_bytes, BlobCorrupt),
        (_absent, BlobNotFound),
        (_broken, StorageUnavailable),
        (_endless, BlobTooLarge),
        (_silent, StorageUnavailable),
    ],
)
async def test_a_hostile_gateway_fails_the_fetch_and_no_more(
    answer: Answer, error: type[Exception], tmp_path: Path
) -> None:
    """Another node's bytes, size and pace are bounded here, not by its good will."""
    async with _client(answer, timeout_s=0.5) as client:
        with pytest.raises(error):
            await client.fetch(ROOT, tmp_path / "out", max_bytes=len(DATA))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["", "ftp://example.org", "example.org", "http://"])
async def test_what_is_no_gateway_url_is_refused(url: str) -> None:
    """An announced URL is a stranger's text."""
    with pytest.raises(ConfigError):
        GatewayClient(Outbound(), url)


async def test_a_name_never_leaves_the_gateways_path() -> None:
    """A CID is checked before it becomes part of a URL."""
    asked: list[str] = []

    async def record(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    async with _client(record) as client:
        with pytest.raises(Exception, match="not a CIDv1"):
            await client.block(Cid("../../admin"))
    assert asked == []
