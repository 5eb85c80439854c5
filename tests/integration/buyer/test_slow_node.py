"""A buyer at a node that answers by drops, or begins an answer and says no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from tests.fakes.chain import FakeClock

from viz.buyer.answers import received
from viz.buyer.answers.received import ReceivedAnswer
from viz.client import node_client
from viz.client.node_client import NodeClient, problem_of
from viz.errors import NodeUnreachable
from viz.protocol.messages import AccessToken
from viz.protocol.payment import CHAT_PATH

HEAD = "HTTP/1.1 {} Slow\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
DROP_S = 0.02
# Where the bound under test is missing, the test ends all the same, and fails.
FOREVER_S = 20.0


@asynccontextmanager
async def slow_node(head: str, drop: bytes) -> AsyncIterator[str]:
    """Serve ``head`` to every request, and after it ``drop`` again and again; yield the URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode())
        while not writer.is_closing():
            await writer.drain()
            await asyncio.sleep(DROP_S)
            writer.write(drop)

    served: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for whole answers a moment only; silence within one is still waited for."""
    monkeypatch.setattr(node_client, "CALL_TIMEOUT_S", 0.3)


def token() -> AccessToken:
    return AccessToken("any", FakeClock(0).now_s() + 10**6)


@pytest.mark.parametrize("drop", [b"", b" "], ids=["nothing", "drops"])
@pytest.mark.parametrize("status", [402, 403])
async def test_a_refusal_that_never_ends_is_left(status: int, drop: bytes) -> None:
    """A body has its own bound: the wait for the headers is over, and each drop breaks silence."""
    async with slow_node(HEAD.format(status), drop) as url, aiohttp.ClientSession() as http:
        with pytest.raises(NodeUnreachable, match="broke off"):
            async with (
                asyncio.timeout(FOREVER_S),
                NodeClient(http, url).generate(CHAT_PATH, b"{}", token(), {}) as response,
            ):
                raise await problem_of(response)


@pytest.mark.parametrize("drop", [b"", b" "], ids=["nothing", "drops"])
async def test_a_call_that_never_ends_is_left(drop: bytes) -> None:
    """Reading a node's description, a channel or a price holds nobody."""
    async with slow_node(HEAD.format(200), drop) as url, aiohttp.ClientSession() as http:
        with pytest.raises(NodeUnreachable):
            async with asyncio.timeout(FOREVER_S):
                await NodeClient(http, url).info()


@pytest.mark.parametrize("drop", [b"", b":\n"], ids=["nothing", "comments"])
async def test_an_answer_without_text_is_left(drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may be silent for a while, and talk aside for a while, and no longer."""
    monkeypatch.setattr(node_client, "STREAM_IDLE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(received, "STALL_S", 0.3)
    arrived = ReceivedAnswer(1, 16)
    async with slow_node(HEAD.format(200), drop) as url, aiohttp.ClientSession() as http:
        with pytest.raises(NodeUnreachable):
            async with (
                asyncio.timeout(FOREVER_S),
                NodeClient(http, url).generate(CHAT_PATH, b"{}", token(), {}) as response,
            ):
                async for raw in response.content.iter_any():
                    arrived.read(len(raw))
