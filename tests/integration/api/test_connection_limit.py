"""More connections than the node serves: the rest is turned away, and costs the others nothing."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from tests.integration.api.harness import OPERATOR_TOKEN, Buyer, Node, running_node
from typer.testing import CliRunner

from viz.api.client_address import IpNetwork
from viz.api.connections import limit as connection_limit
from viz.api.connections.limit import (
    OPERATOR_CONNECTIONS,
    SHARES,
    SPARE,
    TOLD,
    BoundedSite,
    OperatorSite,
    is_local,
)
from viz.api.context import ApiLimits
from viz.cli.main import app
from viz.local_socket import OPERATOR_SOCKET
from viz.protocol import payment

MOST = 4
PATIENCE_S = 20.0
# All are this machine's; the tests take what comes from any but the first for a stranger's.
LOCAL, STRANGER = "127.0.0.1", "127.0.0.2"
GET = b"GET %s HTTP/1.1\r\nHost: n\r\n\r\n"
NODE_PATH = payment.NODE_PATH.encode()


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(connection_limit, "is_local", lambda host: host == LOCAL)
    async with bounded_node(tmp_path) as running:
        yield running


@asynccontextmanager
async def bounded_node(
    folder: Path, *, most: int = MOST, proxies: tuple[IpNetwork, ...] = ()
) -> AsyncIterator[Node]:
    """Run a node that serves so many connections at its address."""
    async with running_node(folder, limits=ApiLimits(trusted_proxies=proxies)) as running:
        site = BoundedSite(running.runner, LOCAL, 0, max_connections=most)
        await site.start()
        host, port = running.runner.addresses[-1][:2]
        yield replace(running, url=f"http://{host}:{port}")


class Line:
    """One connection to the node, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, path: bytes = NODE_PATH) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return status, headers and body."""
        self._writer.write(GET % path)
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> bytes:
        """Wait until the node ends the connection; return what it still said."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def leave(self) -> None:
        self._writer.close()


@asynccontextmanager
async def lines(node: Node, count: int, source: str = "") -> AsyncIterator[list[Line]]:
    """Open so many connections at once, each from a stranger's address of its own or all of one."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    async with AsyncExitStack() as ends:
        to = (host, int(port))
        opened = await asyncio.gather(
            *(
                asyncio.open_connection(*to, local_addr=(source or f"127.0.1.{place + 1}", 0))
                for place in range(count)
            )
        )
        made = [Line(*each) for each in opened]
        for each in made:
            ends.callback(each.leave)
        yield made


async def test_one_connection_too_many_is_told_so_and_harms_nobody(node: Node) -> None:
    """The next is answered 503 and when to come again; those before it are served on, and a
    place that one of them leaves is the next one's."""
    async with lines(node, MOST) as held:
        for each in held:
            assert (await each.ask())[0] == 200
        async with lines(node, 1) as (late,):
            status, headers, body = await late.ask()
            assert (status, headers["connection"]) == (503, "close")
            assert int(headers["retry-after"]) > 0
            assert headers["content-type"] == "application/problem+json"
            assert json.loads(body)["code"] == "http-503"
            assert await late.closed() == b""
        for each in held:
            assert (await each.ask())[0] == 200
        held[0].leave()
        assert await served_at_last(node)


async def served_at_last(node: Node) -> bool:
    """Ask anew until there is room, as who was told to come again does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with lines(node, 1) as (line,):
                if (await line.ask())[0] == 200:
                    return True


async def test_a_burst_lets_no_more_in(node: Node) -> None:
    """However many come in one moment: as many as there are places are served, the rest is told."""
    async with lines(node, MOST + 20) as burst:
        answers = await asyncio.gather(*(each.ask() for each in burst))
        statuses = [status for status, _, _ in answers]
        assert (statuses.count(200), statuses.count(503)) == (MOST, 20)


async def test_one_address_shuts_out_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds connections with requests that never end holds no more than a share of them."""
    monkeypatch.setattr(connection_limit, "is_local", lambda host: host == LOCAL)
    share = 2
    async with (
        bounded_node(tmp_path, most=share * SHARES) as node,
        lines(node, share * SHARES + 20, STRANGER) as flood,
    ):
        answers = await asyncio.gather(*(each.ask() for each in flood))
        assert [status for status, _, _ in answers].count(200) == share
        async with lines(node, share * (SHARES - 1)) as others:
            for each in others:
                assert (await each.ask())[0] == 200


async def test_a_trusted_proxy_brings_the_connections_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it forwards is no one client's, so it may hold every place."""
    monkeypatch.setattr(connection_limit, "is_local", lambda host: host == LOCAL)
    async with (
        bounded_node(tmp_path, proxies=(ip_network(STRANGER),)) as node,
        lines(node, MOST, STRANGER) as held,
    ):
        assert [(await each.ask())[0] for each in held] == [200] * MOST


async def test_this_machines_own_still_come_through(node: Node) -> None:
    """Strangers that hold every place do not make a node look dead, nor lock its operator out."""
    async with lines(node, MOST + 1), lines(node, SPARE + 1, LOCAL) as own:
        for each in own[:SPARE]:
            assert (await each.ask(b"/healthz"))[0] == 200
        _, _, shown = await own[0].ask(b"/metrics")
        assert b"viz_connections_refused_total 2.0" in shown
        assert (await own[SPARE].ask(b"/healthz"))[0] == 503


async def test_the_operator_comes_through_whoever_fills_the_port(
    node: Node, tmp_path: Path
) -> None:
    """Behind a proxy on this machine strangers take this machine's places too; the operator's
    commands go by a socket in the node's folder, which has places of its own, bounded as well."""
    (tmp_path / "operator.token").write_text(OPERATOR_TOKEN, encoding="utf-8")
    site = OperatorSite(node.runner, tmp_path)
    await site.start()
    path = tmp_path / OPERATOR_SOCKET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    words = ["status", "--data-dir", str(tmp_path)]
    async with lines(node, MOST + SPARE, LOCAL) as held, lines(node, 1, LOCAL) as (late,):
        assert [(await each.ask())[0] for each in held] == [200] * len(held)
        assert (await late.ask())[0] == 503
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert done.exit_code == 0, done.output
        assert node.chain.address in done.stdout
        async with AsyncExitStack() as ends:
            for _ in range(OPERATOR_CONNECTIONS):
                line = Line(*await asyncio.open_unix_connection(path))
                ends.callback(line.leave)
                assert (await line.ask())[0] == 200
            more = Line(*await asyncio.open_unix_connection(path))
            ends.callback(more.leave)
            assert (await more.ask())[0] == 503
    await site.stop()
    assert not path.exists()


async def test_a_stream_goes_on_while_others_are_turned_away(node: Node) -> None:
    """A flood of connections neither ends nor holds up an answer that is being paid for."""
    buyer = await Buyer(node).ready()
    async with lines(node, MOST + TOLD + 20) as flood:
        answer = await buyer.ask(buyer.chat(max_tokens=64))
        assert answer.status == 200 and answer.receipt is not None
        # Who says nothing is let go as well, some at once and some after a moment.
        ends = {asyncio.create_task(each.closed()) for each in flood}
        done: set[asyncio.Task[bytes]] = set()
        while len(done) < TOLD + 20:
            ended, ends = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            done |= ended
        for each in ends:
            each.cancel()
        assert {each.result() for each in done} == {b""} and len(ends) <= MOST
    assert await served_at_last(node)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.7", False),
     ("fe80::1%eth0", False), ("::ffff:10.0.0.7", False), ("", False)],
)  # fmt: skip
def test_what_is_this_machines_own(host: str, local: bool) -> None:
    """A stranger is none by writing his address in another way."""
    assert is_local(host) is local
