"""The load: buyers in another process, on another core, over plain sockets.

Vouchers are signed before the clock starts: a buyer signs ahead. A client that does little keeps
the generator's core from being the bound. Invariant: an answer that is not 200 fails the run.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from benchmarks.payment_parts.server import EMPTY_PATH, key_of
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api.harness import ADAPTER, NODE_KEY

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import public_address, settlement_domain, sign_compact
from viz.domain.node_channel import PresentedVoucher
from viz.domain.units import ZERO_HASH
from viz.domain.usage import UsageLine
from viz.protocol import payment
from viz.protocol.credential import credential_to_header

Kind = Literal["paid", "free", "empty"]
NODE = public_address(NODE_KEY)
DOMAIN = settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)


WARM = 10


class Server(Protocol):
    """What the load must know of the server."""

    paid: str
    free: str
    buyers: list[Buyer]


class Socket(asyncio.Protocol):
    """One connection that sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._length: int | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._length is None:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            at = head.find(b"content-length:")
            self._length = 0
            if at >= 0:
                self._length = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        whole = len(self._got) >= self._length
        if not self._length:
            whole = self._got.endswith(b"0\r\n\r\n")
        if whole and self._answer is not None and not self._answer.done():
            self._answer.set_result(bytes(self._got))

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the whole answer; raise AssertionError if it is refused.

        A voucher that another one of its channel overtook is refused, and what it pays is paid.
        """
        self._got.clear()
        self._length = None
        self._answer = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(request)
        answer = await self._answer
        overtaken = answer.startswith(b"HTTP/1.1 409") and b"line-below-best" in answer
        assert overtaken or answer.startswith(b"HTTP/1.1 200"), answer[:2000].decode()
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass
class Buyer:
    """One signer: its access token and how many vouchers it has signed."""

    index: int
    token: str
    step_units: int
    signed: int = 0

    def voucher(self) -> str:
        """Return the credential that pays one more request."""
        self.signed += 1
        lines = (UsageLine(ADAPTER, self.step_units * self.signed),)
        key = key_of(self.index)
        row = SignedVoucher(0, ZERO_HASH, lines, b"")
        signature = sign_compact(key, DOMAIN.digest(row.voucher(NODE)))
        row = SignedVoucher(0, ZERO_HASH, lines, signature)
        presented = PresentedVoucher(
            DEPLOYMENT.chain_id, DEPLOYMENT.settlement, public_address(key), NODE, row
        )
        return credential_to_header(presented)


@dataclass(frozen=True)
class Load:
    """One phase: what is asked, by whom, how long, at which rate (None: as fast as answered)."""

    kind: Kind
    buyers: int
    channels: int
    seconds: float
    offered: float | None = None
    stream: bool = True
    tokens: int = 16
    rides: bool = False


@dataclass
class Measured:
    """What a phase gave."""

    times_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


def post(path: str, body: bytes, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return a request's bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: node.test", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def chat_body(load: Load) -> bytes:
    """Return the chat that everybody asks."""
    chat = {
        "model": f"viz-adapter-{ADAPTER}",
        "messages": [{"role": "user", "content": "When is high tide?"}],
        "stream": load.stream,
        "max_tokens": load.tokens,
        "temperature": 0,
    }
    return json.dumps(chat).encode()


def requests(load: Load, buyers: Sequence[Buyer], count: int) -> Iterator[list[bytes]]:
    """Yield ``count`` requests, each as the messages that it takes, signed ahead."""
    body = chat_body(load)
    accept = (payment.ACCEPT_HEADER, payment.ACCEPT_VALUE)
    for at in range(count):
        if load.kind != "paid":
            path = EMPTY_PATH if load.kind == "empty" else payment.CHAT_PATH
            yield [post(path, body, [accept])]
            continue
        buyer = buyers[at % load.channels]
        pays = buyer.voucher()
        who = ("Authorization", f"Bearer {buyer.token}")
        if load.rides:
            rides = ("Payment-Voucher", pays.removeprefix("Payment "))
            yield [post(payment.CHAT_PATH, body, [who, accept, rides])]
            continue
        voucher = post(payment.VOUCHERS_PATH, b"", [("Authorization", pays)])
        yield [voucher, post(payment.CHAT_PATH, body, [who, accept])]


async def run(url: str, load: Load, buyers: Sequence[Buyer], most: int) -> Measured:
    """Run one phase of at most ``most`` requests and return what was measured."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    if load.offered is not None:
        most = int(load.offered * load.seconds)
    ready = deque(requests(load, buyers, most))
    # Each buyer has one connection; at an offered rate there are as many as are needed.
    places = load.buyers if load.offered is None else min(512, most)
    sockets: list[Socket] = []
    for _ in range(places):
        _, socket = await loop.create_connection(Socket, host, int(port))
        sockets.append(socket)
    measured = Measured()
    try:
        work = _closed if load.offered is None else _open
        started = time.perf_counter()
        await work(load, sockets, ready, measured)
        measured.seconds = time.perf_counter() - started
    finally:
        for socket in sockets:
            socket.close()
    return measured


async def _send(socket: Socket, messages: list[bytes], since_s: float, measured: Measured) -> None:
    for message in messages:
        await socket.ask(message)
    measured.times_s.append(time.perf_counter() - since_s)


async def _closed(
    load: Load, sockets: Sequence[Socket], ready: deque[list[bytes]], measured: Measured
) -> None:
    until = time.perf_counter() + load.seconds

    async def buyer(socket: Socket) -> None:
        while ready and time.perf_counter() < until:
            messages = ready.popleft()
            await _send(socket, messages, time.perf_counter(), measured)

    await asyncio.gather(*map(buyer, sockets))


async def _open(
    load: Load, sockets: Sequence[Socket], ready: deque[list[bytes]], measured: Measured
) -> None:
    """Send at the offered rate; a request that finds no free connection waits, and that counts."""
    assert load.offered is not None
    free: asyncio.Queue[Socket] = asyncio.Queue()
    for socket in sockets:
        free.put_nowait(socket)

    async def one(messages: list[bytes], due: float) -> None:
        socket = await free.get()
        try:
            await _send(socket, messages, due, measured)
        finally:
            free.put_nowait(socket)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for at in range(len(ready)):
            due = started + at / load.offered
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(one(ready.popleft(), due))


async def in_turn(server: Server, loads: Sequence[Load], rounds: int) -> list[list[float]]:
    """Send one request of each load in turn, ``rounds`` times; return their times in seconds."""
    loop = asyncio.get_running_loop()
    sockets: list[Socket] = []
    ready: list[list[list[bytes]]] = []
    for load in loads:
        url = server.paid if load.kind == "paid" else server.free
        host, port = url.removeprefix("http://").split(":")
        sockets.append((await loop.create_connection(Socket, host, int(port)))[1])
        # Each way has a channel of its own, so that all vouchers can be signed before.
        buyers = server.buyers[len(sockets) :]
        ready.append(list(requests(load, buyers, rounds + WARM)))
    found = [Measured() for _ in loads]
    for at in range(rounds + WARM):
        for socket, messages, measured in zip(sockets, ready, found, strict=True):
            await _send(socket, messages[at], time.perf_counter(), measured)
    for socket in sockets:
        socket.close()
    return [measured.times_s[WARM:] for measured in found]
