"""What strangers named is asked within bounds, and judged at the moment of connecting."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from viz.errors import AddressNotPublic, InvalidListing, NodeRefused, NodeUnreachable
from viz.outbound import Outbound


@asynccontextmanager
async def server(handler: web.RequestHandler | object) -> AsyncIterator[str]:
    """Serve one handler for every path on a free port of this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """The client as a test on one machine has it."""
    made = Outbound(private_addresses=True)
    yield made
    await made.close()


async def test_a_name_is_judged_by_what_it_stands_for_when_connecting() -> None:
    """A name that was public at a first look, or a number, cannot lead inside."""
    reached: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.json_response({})

    async with server(handler) as url:
        port = int(url.rpartition(":")[2])
        strict = Outbound()
        with pytest.raises(AddressNotPublic):
            await strict.ask("GET", f"http://localhost:{port}/")
        for number in ("2130706433", "0x7f.1"):
            with pytest.raises(NodeUnreachable):
                await strict.ask("GET", f"http://{number}:{port}/")
        await strict.close()
    assert reached == []


async def test_a_redirect_is_not_followed(outbound: Outbound) -> None:
    """Else a public server could send the node to a private one."""
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        raise web.HTTPFound("/inside")

    async with server(handler) as url:
        with pytest.raises(NodeRefused, match="redirect"):
            await outbound.ask("GET", url + "/start")
    assert paths == ["/start"]


async def test_an_answer_is_bounded_in_bytes_and_in_time(outbound: Outbound) -> None:
    """Ten megabytes of JSON and a drip of bytes cost no more than their bounds."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * (1 if "slow" in request.path else 65_536))
            if "slow" in request.path:
                await asyncio.sleep(0.05)

    async with server(endless) as url:
        with pytest.raises(NodeRefused, match="more than 1000000 bytes"):
            await outbound.ask("GET", url + "/fast", max_bytes=1_000_000)
        with pytest.raises(NodeUnreachable, match=r"within 0\.3 s"):
            await outbound.ask("GET", url + "/slow", timeout_s=0.3)


async def test_a_compressed_answer_is_not_unpacked(outbound: Outbound) -> None:
    """A small body that grows a thousandfold is refused as it is."""

    async def bomb(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        body = gzip.compress(b"0" * 10_000_000)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with server(bomb) as url:
        with pytest.raises(NodeRefused, match="compressed"):
            await outbound.ask("GET", url)


async def test_a_nodes_refusal_is_the_typed_error_that_it_names(outbound: Outbound) -> None:
    """A caller acts on the error's class, as if its own node had raised it."""

    async def refuse(request: web.Request) -> web.Response:
        body = {"code": "invalid-listing", "detail": "no title"}
        return web.json_response(body, status=400)

    async with server(refuse) as url:
        with pytest.raises(InvalidListing, match="no title") as caught:
            await outbound.ask("POST", url, body={"listing": {}})
    assert caught.value.answered


async def test_what_is_no_json_or_nobody_is_said(outbound: Outbound) -> None:
    """Rubbish and silence are the other side's fault, in one line."""

    async def rubbish(request: web.Request) -> web.Response:
        return web.Response(body=b"\xff\x00 not json")

    async with server(rubbish) as url:
        with pytest.raises(NodeUnreachable, match="in front of the node"):
            await outbound.ask("GET", url)
    with pytest.raises(NodeUnreachable, match="cannot be reached"):
        await outbound.ask("GET", url)
