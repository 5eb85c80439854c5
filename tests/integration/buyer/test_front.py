"""A server before an honest node answers by itself: nobody is accused, and all is paid once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api.harness import ADAPTER, DEPOSIT, ORIGIN, PAYER_KEY, Node
from tests.integration.buyer.conftest import PASSWORD
from tests.integration.buyer.test_untrue_node import ask

from viz.buyer.channels import sync as channel_sync
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.node_standing import BROKEN_ALLOWED
from viz.buyer.terms.checks import Limits
from viz.client import node_client
from viz.domain.eip712 import public_address
from viz.errors import InvalidRequest, NodeNotTrusted, NodeRefused, NodeUnreachable
from viz.protocol.payment import CHANNELS_PATH, CHAT_PATH, CLOSE_PATH, VOUCHERS_PATH

Page = tuple[int, str, bytes, dict[str, str]]
Forward = Callable[[], Awaitable[web.Response]]
Written = Callable[[bytes], bytes]
HTML = "text/html"
PAGES: dict[str, Page] = {
    "redirect": (307, HTML, b"", {"Location": "/login"}),
    "log in": (401, HTML, b"<p>", {"WWW-Authenticate": "Basic realm=x"}),
    "pay the host": (402, HTML, b"<p>", {"WWW-Authenticate": "Basic realm=x"}),
    "pay the host, as JSON": (402, "application/json", b'{"error": "quota"}', {}),
    "blocked": (403, HTML, b"<p>blocked</p>", {}),
    "bad gateway": (502, HTML, b"<p>502</p>", {}),
    "maintenance": (200, HTML, b"<p>back soon</p>", {}),
    "status": (200, "application/json", b'{"status": "ok"}', {}),
    "choices that nobody asked for": (
        200,
        "text/event-stream",
        b'data: {"choices": [{"index": 5, "delta": {"content": "x"}}]}\n\n',
        {},
    ),
    "another stream": (200, "text/event-stream", b"data: <p>\n\n", {}),
}


@dataclass
class Front:
    """A reverse proxy that answers one request after another to ``path`` with its own page.

    The node has the request before that, and its answer is thrown away. ``written`` changes the
    bytes of a streamed answer; what it returns is the whole answer. ``acts`` answers the requests
    to ``path`` as it likes, and asks the node as often as it likes. ``takes_out`` are the headers
    that it does not hand on, in lower case, and ``rewrites`` changes each body on its way.
    """

    node: str
    url: str = ""
    path: str = ""
    pages: list[Page] = field(default_factory=list)
    written: Written | None = None
    acts: Callable[[Forward], Awaitable[web.Response]] | None = None
    thrown: int = 0
    takes_out: tuple[str, ...] = ()
    rewrites: Written = bytes

    async def handle(self, request: web.Request) -> web.Response:
        if self.acts is not None and request.path == self.path:
            return await self.acts(lambda: self._forward(request))
        return await self._forward(request)

    async def _forward(self, request: web.Request) -> web.Response:
        sent = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "content-length", *self.takes_out)
        }
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method,
                self.node + str(request.rel_url),
                data=self.rewrites(await request.read()),
                headers=sent,
                max_field_size=64 * 1024,
            ) as answer,
        ):
            raw = await answer.read()
            headers = CIMultiDict(
                (name, value)
                for name, value in answer.headers.items()
                if name.lower() not in ("content-length", "transfer-encoding", "connection")
            )
            if request.path == self.path and answer.status == 200:
                if self.pages:
                    self.thrown += 1
                    status, kind, body, more = self.pages.pop()
                    made = {**more, "Content-Type": kind}
                    return web.Response(status=status, body=body, headers=made)
                if self.written is not None:
                    raw, self.written = self.written(raw), None
            return web.Response(status=answer.status, body=raw, headers=headers)


@pytest.fixture
async def front(node: Node, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    async with fronting(node, monkeypatch) as made:
        yield made


@asynccontextmanager
async def fronting(node: Node, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    """Run a front before the node."""
    monkeypatch.setattr(node_client, "VOUCHER_AGAIN_S", 0.01)
    monkeypatch.setattr(channel_sync, "LATE_BILL_WAITS_S", (0.0, 0.1))
    made = Front(node.url)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, max_field_size=64 * 1024)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
    yield made
    await runner.cleanup()


@pytest.fixture
async def buyer(node: Node, front: Front, tmp_path: Path) -> AsyncIterator[BuyerClient]:
    async with buying_through(front, node, tmp_path / "buyer") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        yield client


@asynccontextmanager
async def buying_through(
    front: Front, node: Node, home: Path, limits: Limits | None = None
) -> AsyncIterator[BuyerClient]:
    """Connect a buyer to the node behind the front; it has no channel yet."""
    async with aiohttp.ClientSession() as http:
        client = await BuyerClient.connect(
            http,
            front.url,
            home=home,
            password=PASSWORD,
            expected=DEPLOYMENT,
            clock=node.clock,
            origin=ORIGIN,
            scrypt_n=2,
            limits=limits or Limits(),
        )
        try:
            yield client
        finally:
            await client.aclose()


async def in_step(buyer: BuyerClient) -> bool:
    """Say whether the next answer comes, and buyer and node then agree on every bill."""
    assert await ask(buyer, max_tokens=8, seed=9)
    await buyer.sync()
    view = await buyer.api.channel(buyer.signer, await buyer.token())
    spent = next(each.spent_units for each in view.lines if each.adapter_id == ADAPTER)
    billed = buyer.channel.billed_units(ADAPTER)
    return (view.seq, spent) == (buyer.channel.seq, billed) and not buyer.voucher_signer.fault


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_instead_of_the_answer_accuses_nobody(
    front: Front, buyer: BuyerClient, name: str
) -> None:
    """The node answered and billed: a 402 of the front, or a page with 200, was a refusal before.

    The request was forgotten, so that the bill accused an honest node for good.
    """
    front.path, front.pages = CHAT_PATH, [PAGES[name]]
    with pytest.raises((NodeUnreachable, NodeNotTrusted), match=r"in front|broke|cut|choice"):
        await ask(buyer, max_tokens=8)
    assert front.thrown == 1
    assert await in_step(buyer)
    assert buyer.channel.seq == 2


@pytest.mark.parametrize("name", ["log in", "maintenance", "status"])
async def test_a_page_instead_of_a_vouchers_answer_is_asked_for_again(
    front: Front, buyer: BuyerClient, name: str
) -> None:
    """Also a page with status 200: the answer goes on, and the voucher is paid once."""
    front.path = VOUCHERS_PATH
    for number in range(BROKEN_ALLOWED + 3):
        front.pages = [PAGES[name]]
        assert await ask(buyer, max_tokens=400, seed=number)
    assert front.thrown > BROKEN_ALLOWED
    assert await in_step(buyer)


CUTS: dict[str, Written] = {
    "cleanly, before the bill": lambda raw: raw[: raw.rindex(b"event: payment-receipt")],
    "within a frame": lambda raw: raw[: raw.rindex(b"data: {") + 20],
    "with a page in it": lambda raw: (
        raw[: raw.rindex(b"data: {") + 20] + b"\n\n<html>504</html>\n\n"
    ),
    "at once": lambda raw: b"",
}


@pytest.mark.parametrize("how", CUTS)
async def test_a_stream_that_is_cut_off_on_the_way_is_no_wrong_answer(
    front: Front, buyer: BuyerClient, how: str
) -> None:
    """It was the node that "does not verify", or a malformed request that no node would answer."""
    front.path, front.written = CHAT_PATH, CUTS[how]
    with pytest.raises(NodeUnreachable, match=r"cut off|broke off"):
        await ask(buyer, max_tokens=8)
    assert await in_step(buyer)
    assert buyer.channel.seq == 2


@pytest.mark.parametrize("name", ["bad gateway", "maintenance", "status"])
async def test_a_page_instead_of_a_deposits_or_a_closes_answer_says_what_to_run(
    node: Node, front: Front, buyer: BuyerClient, name: str
) -> None:
    """The node relayed both: the deposit is sent again, and counts once; the close holds."""
    front.path, front.pages = CHANNELS_PATH, [PAGES[name]]
    with pytest.raises((NodeUnreachable, NodeRefused), match=r"may have arrived.*channel open"):
        await buyer.open_channel(PAYER_KEY, DEPOSIT)
    left = node.chain.balances[public_address(PAYER_KEY)]
    assert (await buyer.open_channel(PAYER_KEY, DEPOSIT)).deposit_units == 2 * DEPOSIT
    assert node.chain.balances[public_address(PAYER_KEY)] == left
    assert await ask(buyer, max_tokens=8)  # what pays for the node's gas
    front.path, front.pages = CLOSE_PATH, [PAGES[name]]
    with pytest.raises((NodeUnreachable, NodeRefused), match=r"may be closed.*channel show"):
        await buyer.close_channel(PAYER_KEY)
    with pytest.raises(InvalidRequest, match="nothing is left"):
        await buyer.close_channel(PAYER_KEY)
