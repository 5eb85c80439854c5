"""Clients that mean harm: they cost the node nothing but their own connection."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, PRICE, Buyer, Node, running_node
from tests.integration.api.test_streams import last_receipt, spent_of

from viz.protocol import payment
from viz.services.serving.admission import TINY_PROMPT_BYTES

PATIENCE_S = 20.0
# Hundreds of kilobytes in one answer: more than the buffers between two sockets take.
LONG: dict[str, Any] = {"n": 8, "max_tokens": 200, "logprobs": True, "top_logprobs": 20}


class SlowReader(FakeEngine):
    """An engine that notes what it tokenises, and stops at a text with STOP until let go."""

    def __init__(self) -> None:
        super().__init__(context_tokens=2048)
        self.rendered: list[str] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        text = messages[-1]["content"]
        self.rendered.append(text)
        if "STOP" in text:
            self.begun.set()
            if not self.go_on.wait(PATIENCE_S):
                self.rendered.append("nobody else was served")
        return super().render(messages, so_far)


async def paid(node: Node, key: bytes = b"\x33" * 32) -> Buyer:
    buyer = await Buyer(node, key=key).ready()
    await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 200_000, 0))
    return buyer


async def test_a_long_prompt_holds_up_nobody_else(tmp_path: Path) -> None:
    """Prompts are tokenised beside the event loop, and one signer's many wait for each other."""
    engine, more = SlowReader(), "!" * TINY_PROMPT_BYTES
    async with running_node(tmp_path, engine=engine) as node:
        hostile, honest = await paid(node), await paid(node, b"\x55" * 32)
        waiting = [
            asyncio.create_task(hostile.ask(hostile.chat(f"STOP {n}{more}"), pays=False))
            for n in range(5)
        ]
        try:
            assert await asyncio.to_thread(engine.begun.wait, PATIENCE_S)
            assert (await honest.ask(honest.chat("a tide"), pays=False)).text
            assert not any(each.done() for each in waiting)
            assert len(engine.rendered) == 2, "of the five, four wait for the first"
        finally:
            engine.go_on.set()
        assert all(each.text for each in await asyncio.gather(*waiting))
        assert "nobody else was served" not in engine.rendered


async def test_a_prompt_that_cannot_fit_is_refused_unread(tmp_path: Path) -> None:
    """More bytes than the context's tokens could spell are not tokenised to find that out."""
    engine = SlowReader()
    async with running_node(tmp_path, engine=engine) as node:
        buyer = await paid(node)
        fits = 2048 - len(engine.render([{"role": "user", "content": ""}])) - 24
        del engine.rendered[:]
        answer = await buyer.ask(buyer.chat("x" * fits), pays=False)
        assert answer.text and engine.rendered == ["x" * fits]
        answer = await buyer.ask(buyer.chat("x" * 2049), pays=False)
        assert (answer.status, answer.body["code"]) == (413, "prompt-too-long")
        body = {"model": "viz-adapter-7", "prompt": "é" * 1025, "max_tokens": 1}
        answer = await buyer.ask(body, path=payment.COMPLETIONS_PATH, pays=False)
        assert (answer.status, answer.body["code"]) == (413, "prompt-too-long")
        assert len(engine.rendered) == 1


async def test_who_has_no_channel_makes_the_node_do_no_work(tmp_path: Path) -> None:
    """A session costs nothing, so what it asks for is not tokenised: it is told the price."""
    engine = SlowReader()
    async with running_node(tmp_path, engine=engine) as node:
        buyer = Buyer(node)
        await buyer.login()
        challenge = await buyer.need_of(buyer.chat())
        assert challenge.quote is not None and challenge.need is None
        assert engine.rendered == []
        await buyer.open()
        assert (await buyer.ask()).text


async def test_who_stops_reading_is_cut_off_and_billed(tmp_path: Path) -> None:
    """A stalled reader does not keep its place in the engine: it pays for what was sent."""
    async with running_node(tmp_path, client_timeout_s=0.3) as node:
        buyer = await paid(node)
        small_send_buffers(node)
        full = (await buyer.ask(buyer.chat(**LONG))).receipt
        assert full is not None
        body = json.dumps(buyer.chat(**LONG)).encode()
        async with connected(node, receive_bytes=4096) as (reader, writer):
            writer.write(head(buyer, body) + body)
            assert b"200" in await reader.readline()
            async with asyncio.timeout(PATIENCE_S):
                await node.parts.serving.drain()
            assert (await node.parts.vouchers._channels.get(buyer.signer)).channel.reserved == {}
            receipt = await last_receipt(node, buyer)
            assert 0 < receipt.completion_tokens < full.receipt.completion_tokens
            assert receipt.total_units == full.receipt.amount_units + receipt.amount_units
            assert await spent_of(node, buyer) == {ADAPTER: receipt.total_units}
            assert receipt.amount_units == PRICE.amount_units(
                receipt.prompt_tokens, receipt.completion_tokens
            )
            await to_the_end(reader)


STALLS = {
    "no headers": (b"", b""),
    "half of the headers": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: n\r\nX-A: ", b""),
    "half of a body": (b"POST %s HTTP/1.1\r\nHost: n\r\nContent-Length: 9\r\n\r\n{" %
                       payment.SESSIONS_PATH.encode(), b"HTTP/1.1 408"),
    "half of a chunk": (b"POST %s HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"
                        % payment.SESSIONS_PATH.encode(), b"HTTP/1.1 408"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "answered"), STALLS.values(), ids=STALLS.keys())
async def test_who_sends_nothing_whole_is_let_go(
    tmp_path: Path, sent: bytes, answered: bytes
) -> None:
    """Slow headers and slow bodies end, each in a client's time, and leave no connection open."""
    async with running_node(tmp_path, client_timeout_s=0.3) as node:
        async with connected(node) as (reader, writer):
            writer.write(sent)
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.readline()).startswith(answered)
                await to_the_end(reader)
        assert (await Buyer(node).call("GET", payment.NODE_PATH))[0] == 200


async def test_packed_bodies_are_not_unpacked(tmp_path: Path) -> None:
    """A body that would grow a thousandfold, or is no archive at all, costs the node nothing."""
    async with running_node(tmp_path) as node:
        for packed in (zlib.compress(b" " * 2**24, 9), b"no archive"):
            async with node.http.post(
                node.url + payment.SESSIONS_PATH,
                data=packed,
                headers={"Content-Encoding": "deflate"},
            ) as response:
                assert response.status == 415 and response.headers["Accept-Encoding"] == "identity"
                assert (await response.json(content_type=None))["code"] == "http-415"


ODD: list[tuple[str, bytes, bytes, bytes]] = [
    ("a key that is no text", b"POST " + payment.CHAT_PATH.encode(),
     b"Authorization: Bearer \xff\xfe", b'{"model": "fake", "prompt": "x"}'),
    ("an operator's key that is no text", b"GET /operator/v1/status",
     b"Authorization: Bearer \xff", b""),
    ("an idempotency key that is no text", b"POST " + payment.CHAT_PATH.encode(),
     b"Authorization: Bearer TOKEN\r\nIdempotency-Key: \xff", b"CHAT"),
    ("a number beyond any float", b"POST " + payment.CHAT_PATH.encode(),
     b"Authorization: Bearer TOKEN",
     b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "temperature": 1'
     + b"0" * 400 + b"}"),
    ("a credential that is no text", b"POST " + payment.VOUCHERS_PATH.encode(),
     b"Authorization: Payment \xff", b""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "headers", "body"), [o[1:] for o in ODD], ids=[o[0] for o in ODD])
async def test_odd_bytes_are_the_callers_fault(
    tmp_path: Path, line: bytes, headers: bytes, body: bytes
) -> None:
    """What no honest client sends is answered 400, and writes no trace into the log."""
    async with running_node(tmp_path) as node:
        buyer = await paid(node)
        headers = headers.replace(b"TOKEN", buyer.token.encode())
        body = body.replace(b"CHAT", json.dumps(buyer.chat()).encode())
        async with connected(node) as (reader, writer):
            writer.write(line + b" HTTP/1.1\r\nHost: n\r\nContent-Length: %d\r\n" % len(body))
            writer.write(headers + b"\r\n\r\n" + body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 400")


async def test_a_whole_answer_is_not_kept_for_who_does_not_read_it(tmp_path: Path) -> None:
    """An answer in one piece is let go of as well, with the connection that it waited for."""
    async with running_node(tmp_path, client_timeout_s=0.3) as node:
        buyer = await paid(node)
        small_send_buffers(node)
        body = buyer.chat(**LONG, stream=False)
        async with connected(node, receive_bytes=4096) as (reader, writer):
            sent = json.dumps(body).encode()
            writer.write(head(buyer, sent) + sent)
            top = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert top.startswith("HTTP/1.1 200")
            (size,) = re.findall(r"Content-Length: (\d+)", top)
            assert node.runner.server is not None
            for _ in range(int(PATIENCE_S * 100)):
                if not node.runner.server.connections:
                    break
                await asyncio.sleep(0.01)
            assert await to_the_end(reader) < int(size), "it was cut off before its end"


def small_send_buffers(node: Node) -> None:
    for site in node.runner.sites:
        listening = cast(Any, site)._server.sockets[0]
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@asynccontextmanager
async def connected(
    node: Node, *, receive_bytes: int = 0
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a plain connection to the node, if asked with a small buffer of its own."""
    address = urlsplit(node.url)
    plain = socket.socket()
    if receive_bytes:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    try:
        yield reader, writer
    finally:
        writer.close()


def head(buyer: Buyer, body: bytes) -> bytes:
    lines = [f"POST {payment.CHAT_PATH} HTTP/1.1", "Host: node", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in buyer.bearer().items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def to_the_end(reader: asyncio.StreamReader) -> int:
    """Read until the other side ends the connection; return how much came."""
    count = 0
    try:
        while piece := await reader.read(65_536):
            count += len(piece)
    except ConnectionResetError:
        pass
    return count
