"""A buyer at a node that lies: what it may send, what it may bill, and what it is told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.chain import FakeClock, address_of
from tests.integration.api.harness import ADAPTER, DEPOSIT, NODE_KEY, PAYER_KEY, PRICE, Node
from tests.integration.buyer.conftest import buying

from viz.api.market import own_offers
from viz.buyer.answers import received
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.terms.checks import Limits
from viz.client.node_client import NodeClient
from viz.domain.eip712 import sign
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import ZERO_HASH, Hash32
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import (
    ChannelClosing,
    LineBelowBest,
    NodeNotTrusted,
    NodeRefused,
    NodeUnreachable,
    PriceAboveCap,
    StaleVoucher,
    StoreFull,
    VizError,
)
from viz.protocol.messages import AccessToken, NodeInfo
from viz.protocol.payment import (
    CHAT_PATH,
    NEED_VOUCHER_EVENT,
    RECEIPT_EVENT,
    NeedVoucher,
    receipt_to_json,
)
from viz.protocol.problems import error_of
from viz.protocol.sse import sse_event

MODEL = f"viz-adapter-{ADAPTER}"
PROMPT_TOKENS = 20
DONE = b"data: [DONE]\n\n"


def chat(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "When is high tide?"}]
    return {"model": MODEL, "messages": messages, "max_tokens": 16, **more}


async def ask(client: BuyerClient, **more: Any) -> str:
    async with client.ask(chat(**more)) as answer:
        async for _ in answer:
            pass
    return answer.text


def said(text: str, index: int = 0) -> bytes:
    """A chunk that brings some text."""
    chunk = {"choices": [{"index": index, "delta": {"content": text}}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class Stream:
    """A streamed answer of the node's own invention."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for frame in self._frames:
            await asyncio.sleep(0)
            yield frame

    def read_nowait(self) -> bytes:
        return b""

    def close(self) -> None:
        self._frames.clear()


class Liar:
    """Answers a buyer's requests in the node's place, and signs what it likes with its key."""

    def __init__(self, client: BuyerClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.requests: list[bytes] = []
        self.answer: Callable[[], list[bytes]] = list
        monkeypatch.setattr(client.api, "generate", self._generate)

    @asynccontextmanager
    async def _generate(
        self, path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
    ) -> AsyncIterator[Stream]:
        self.requests.append(body)
        yield Stream(self.answer())

    def receipt(self, text: str, tokens: int, *, seq: int = 1) -> bytes:
        """The event of a receipt for the latest request, true but for what it counts."""
        units = PRICE.amount_units(PROMPT_TOKENS, tokens)
        lines = (UsageLine(ADAPTER, units),)
        receipt = Receipt(
            channel_id(self.client.signer, self.client.info.node),
            seq,
            usage_hash(lines),
            ZERO_HASH,
            salted_hash(ZERO_HASH, self.requests[-1]),
            salted_hash(ZERO_HASH, text.encode()),
            PROMPT_TOKENS,
            tokens,
            units,
            units * seq,
            0,
        )
        signature = sign(NODE_KEY, self.client.voucher_signer.domain.digest(receipt))
        signed = SignedReceipt(receipt, lines, ZERO_HASH, ZERO_HASH, signature)
        return sse_event(receipt_to_json(signed), RECEIPT_EVENT)


@pytest.fixture
def liar(buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch) -> Liar:
    return Liar(buyer, monkeypatch)


async def test_the_lies_below_would_be_taken_if_they_were_true(liar: Liar) -> None:
    """What is refused below is refused for its lie alone."""
    liar.answer = lambda: [said("high tide at six"), liar.receipt("high tide at six", 16), DONE]
    assert await ask(liar.client) == "high tide at six"
    assert liar.client.channel.billed_units(ADAPTER) == PRICE.amount_units(PROMPT_TOKENS, 16)


@pytest.mark.parametrize(
    ("length", "max_tokens", "cap", "reason"),
    [
        (4_000, 16, 1_000_000, "bills more than was asked for"),
        (3_000, 10_000, 5_000, "bills more than was asked for"),
    ],
    ids=["more tokens than asked for", "more than the cap"],
)
async def test_a_node_bills_no_more_than_was_asked_for(
    liar: Liar, length: int, max_tokens: int, cap: int, reason: str
) -> None:
    """Unasked text, however truly signed for, is owed nothing; the node gets no further request."""
    client, text = liar.client, "x" * length
    client.limits = replace(client.limits, request_units=cap)
    liar.answer = lambda: [said(text), liar.receipt(text, length), DONE]
    with pytest.raises(NodeNotTrusted, match=reason):
        await ask(client, max_tokens=max_tokens)
    assert client.channel.billed_units(ADAPTER) == client.channel.total_units == 0
    assert client.voucher_signer.ceiling_units(ADAPTER) <= min(
        cap, PRICE.amount_units(400, max_tokens)
    )
    with pytest.raises(NodeNotTrusted, match="nothing more"):
        await ask(client)


@pytest.mark.parametrize("unasked", [said("x" * 25_000), said("x", index=5)])
async def test_unasked_text_is_a_broken_answer(liar: Liar, unasked: bytes) -> None:
    """No chunk is signed, so a server on the way may have sent it; three such bills end trust."""
    client = liar.client
    liar.answer = lambda: [unasked, DONE]
    with pytest.raises(NodeNotTrusted, match=r"bytes of text|choice 5 of 1"):
        await ask(client)
    assert not client.voucher_signer.fault
    assert client.channel.total_units == 0


async def test_a_bill_for_another_text_is_a_broken_answer(liar: Liar) -> None:
    """The text is not signed. A node whose bills fit no answer is left after three of them."""
    client = liar.client
    liar.answer = lambda: [said("high"), liar.receipt("low", 3), DONE]
    with pytest.raises(NodeUnreachable, match="does not match this request"):
        await ask(client)
    assert not client.voucher_signer.fault


async def test_a_bill_that_the_node_did_not_sign_is_not_its_word(liar: Liar) -> None:
    """Whoever stands between could accuse every node otherwise, with one byte."""
    client = liar.client
    liar.answer = lambda: [
        said("high"),
        re.sub(rb'("signature":"0x)(..)', another_byte, liar.receipt("high", 4_000)),
        DONE,
    ]
    with pytest.raises(NodeRefused, match="not signed by the node"):
        await ask(client)
    assert not client.voucher_signer.fault
    assert client.channel.billed_units(ADAPTER) == 0


def another_byte(match: re.Match[bytes]) -> bytes:
    """Return what precedes a byte in hexadecimal, and another byte."""
    return match[1] + (b"01" if match[2] == b"00" else b"00")


@pytest.mark.parametrize("seq", [2**53, 2**64 - 1])
async def test_a_receipt_with_a_number_that_no_channel_comes_to_is_the_node_s_fault(
    liar: Liar, seq: int
) -> None:
    """It was written into the ledger, which no later process could read: no close, no evidence."""
    client = liar.client
    liar.answer = lambda: [said("high"), liar.receipt("high", 4, seq=seq), DONE]
    with pytest.raises(NodeNotTrusted, match="no channel comes to"):
        await ask(client)
    assert "no channel comes to" in client.voucher_signer.fault
    assert client.channel.billed_units(ADAPTER) == 0
    written = (client.directory / "ledger.jsonl").read_bytes()
    assert str(seq).encode() not in written.replace(client.voucher_signer.fault.encode(), b"")


async def test_an_answer_beyond_the_cap_is_left(liar: Liar) -> None:
    """Where parallel requests paid for it, an answer still ends at the cap; nobody is blamed."""
    client = liar.client
    client.limits = replace(client.limits, request_units=5_000)
    liar.answer = lambda: [said("x") for _ in range(2_000)]
    with pytest.raises(PriceAboveCap, match=r"at most, and needs .* --max-per-request"):
        await ask(client, max_tokens=10_000)
    client.ask(chat())


async def test_an_answer_with_two_bills_pays_the_first(liar: Liar) -> None:
    """One text is paid for once; a server on the way may have sent the bill of a repetition too."""
    liar.answer = lambda: [
        said("high"),
        liar.receipt("high", 4),
        liar.receipt("high", 4, seq=2),
        DONE,
    ]
    assert await ask(liar.client) == "high"
    assert liar.client.channel.billed_units(ADAPTER) == PRICE.amount_units(PROMPT_TOKENS, 4)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (said("x", index=1), NodeNotTrusted),
        (b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud800"}}]}\n\n', NodeRefused),
        (b'data: {"choices": [{"index": 0, "delta": {"content": 7}}]}\n\n', NodeRefused),
        (b'data: {"choices": [{"index": 1e999, "text": "x"}]}\n\n', NodeRefused),
        (b'data: {"choices": ["x"]}\n\n', NodeRefused),
        (b'data: {"choices": "x"}\n\n', NodeRefused),
        (b"data: " + b"[" * 100_000 + b"\n\n", VizError),
        (b'data: {"error": {"code": "self", "self": 1, "detail": 2}}\n\n', VizError),
    ],
)
async def test_what_is_no_chunk_ends_the_answer_with_a_reason(
    liar: Liar, frame: bytes, error: type[VizError]
) -> None:
    """A malformed event is the node's fault and is said to be, in one line."""
    liar.answer = lambda: [frame]
    with pytest.raises(error):
        await ask(liar.client)


async def test_an_answer_that_never_ends_is_left(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither idle talk nor junk without text can hold a program, or fill the memory."""
    liar.answer = lambda: [b'data: {"junk": "' + b"x" * 500_000 + b'"}\n\n'] * 10
    with pytest.raises(NodeRefused, match="bytes"):
        await ask(liar.client)
    monkeypatch.setattr(received, "STALL_S", -1.0)
    liar.answer = lambda: [b": still here\n\n"] * 10
    with pytest.raises(NodeUnreachable, match="no text"):
        await ask(liar.client)


async def test_a_node_that_was_caught_is_signed_nothing_more(
    node: Node, buyer: BuyerClient
) -> None:
    """Answers that were under way when it was caught end too: their vouchers would pay it on."""
    with pytest.raises(NodeNotTrusted, match="caught"):
        async with buyer.ask(chat(max_tokens=1_000, seed=1, temperature=1)) as answer:
            signed = buyer.channel.total_units
            buyer.distrust("caught")
            async for _ in answer:
                pass
    assert buyer.channel.total_units == signed


async def test_a_request_that_was_sent_and_not_answered_may_be_billed(
    buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node may have admitted it before the line broke: its receipt is looked for."""

    @asynccontextmanager
    async def broken(*given: Any) -> AsyncIterator[Stream]:
        raise NodeUnreachable("the line broke")
        yield Stream([])

    monkeypatch.setattr(buyer.api, "generate", broken)
    with pytest.raises(NodeUnreachable):
        await ask(buyer)
    assert buyer.voucher_signer.lacks_receipts


async def test_a_price_that_rose_is_paid_within_caps_that_were_named(
    node: Node, tmp_path: Path
) -> None:
    """A client that asks without a quote counts on a price; a higher one is no reason to part."""
    limits = Limits(
        completion_price_units=4 * PRICE.completion_price_units,
        prompt_price_stated=True,
        completion_price_stated=True,
    )
    async with buying(node, tmp_path / "b", limits=limits) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        await ask(client)
        (record,) = node.parts.catalogue.records()
        for times, allowed in ((2, True), (5, False)):
            node.clock.now += 61  # the quote has expired
            price = Price(2 * PRICE.prompt_price_units, times * PRICE.completion_price_units)
            await node.parts.catalogue.add(
                replace(
                    record,
                    prompt_units_per_million=price.prompt_price_units,
                    completion_units_per_million=price.completion_price_units,
                )
            )
            before = client.channel.billed_units(ADAPTER)
            if allowed:
                assert await ask(client)
                (offer,) = (o for o in client.info.adapters if o.adapter_id == ADAPTER)
                assert offer.completion_price_units == price.completion_price_units
            else:
                with pytest.raises(PriceAboveCap):
                    await ask(client)
                assert client.channel.billed_units(ADAPTER) == before


async def test_a_node_that_changed_its_model_is_read_again(buyer: BuyerClient) -> None:
    """A node restarted with another base model is another offer, not a node to part with."""

    def tokenizers() -> set[Hash32]:
        return {buyer.info.base_of(each).tokenizer_digest for each in buyer.info.adapters}

    now = tokenizers()
    before = [
        replace(each, base=replace(buyer.info.base_of(each), tokenizer_digest=ZERO_HASH))
        for each in buyer.info.adapters
    ]
    buyer.node.info = replace(buyer.info, adapters=tuple(before))
    assert tokenizers() == {ZERO_HASH} != now
    assert await ask(buyer)
    assert tokenizers() == now


async def test_a_deadline_is_never_the_nodes_to_choose(node: Node, tmp_path: Path) -> None:
    """A deposit that the node calls failed must not be good for years, nor a request to close.

    A buyer's own chain is believed before its clock, and says so when the two differ.
    """
    slow = FakeClock(node.clock.now - 3_600)
    payer = node.chain.balances.copy()
    async with buying(node, tmp_path / "a", clock=slow) as client:
        for refused in (client.open_channel(PAYER_KEY, DEPOSIT), client.request_close(PAYER_KEY)):
            with pytest.raises(NodeNotTrusted, match="this machine's clock"):
                await refused
        assert node.chain.balances == payer and not node.chain.sent
    async with buying(node, tmp_path / "b", clock=slow, chain=node.chain) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        request, _ = await client.request_close(PAYER_KEY)
        assert request.deadline_s <= node.clock.now + 3_600


async def test_a_request_follows_no_redirect(buyer: BuyerClient) -> None:
    """An access token is one node's: it is never carried on to where a node points."""
    reached: list[str] = []
    app = web.Application()

    async def redirect(request: web.Request) -> web.Response:
        reached.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    app.router.add_route("*", "/{any:.*}", redirect)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        api = NodeClient(http, str(server.make_url("/")))
        with pytest.raises(NodeUnreachable):
            async with api.generate(CHAT_PATH, b"{}", await buyer.token(), {}):
                pass
        with pytest.raises(NodeUnreachable):
            await api.channel(buyer.signer, await buyer.token())
    assert "/elsewhere" not in reached and len(reached) == 2


@pytest.mark.parametrize(
    ("field", "lie", "named"),
    [
        ("chain_id", 1, "chain id"),
        ("settlement", address_of(0x51), "Settlement"),
        ("content_registry", address_of(0xC1), "ContentRegistry"),
        ("adapter_registry", address_of(0xA1), "AdapterRegistry"),
        ("token", address_of(0x71), "token"),
        ("token_decimals", 8, "token decimals"),
        ("token_decimals", 0, "token decimals"),
    ],
)
async def test_a_node_that_lies_about_the_deployment_is_left_before_any_signature(
    node: Node,
    buyer: BuyerClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    lie: Any,
    named: str,
) -> None:
    """With the decimals of its choice a node would turn a deposit of 5 into one of 500."""
    monkeypatch.setattr(own_offers, "NodeInfo", lambda **truth: NodeInfo(**{**truth, field: lie}))
    before = dict(node.chain.balances)
    with pytest.raises(NodeNotTrusted, match=f"as its {named}"):
        async with buying(node, tmp_path / "other"):
            pass
    with pytest.raises(NodeNotTrusted, match=f"as its {named}"):
        await buyer.open_channel(PAYER_KEY, 2 * DEPOSIT)
    assert node.chain.balances == before


@pytest.mark.parametrize("kind", [ChannelClosing, LineBelowBest, StaleVoucher, StoreFull])
async def test_a_break_is_the_nodes_whatever_error_it_names(
    liar: Liar, monkeypatch: pytest.MonkeyPatch, kind: type[VizError]
) -> None:
    """A node that refuses the voucher it asked for has broken the answer off, by any code."""
    client = liar.client
    real = client.api.voucher
    # A line below the best says that the node holds a voucher which this buyer never signed.
    held = {"base": "0", "best": [[ADAPTER, "999"]]} if kind is LineBelowBest else {"base": "5"}
    refused = error_of({"code": kind.code, "detail": "no", "best": [], **held}, 402)

    async def voucher(offer: Any) -> Any:
        raise refused

    def frames() -> list[bytes]:
        monkeypatch.setattr(client.api, "voucher", voucher)
        need = NeedVoucher(ADAPTER, 0, 0, client.voucher_signer.ceiling_units(ADAPTER), ())
        return [sse_event(need.to_json(), NEED_VOUCHER_EVENT), *[b": wait\n\n"] * 100]

    liar.answer = frames
    left = []
    leave = client.voucher_signer.leave_unreceipted

    def noted(open_request: OpenRequest, *, broken: bool = False) -> None:
        left.append(broken)
        leave(open_request, broken=broken)

    monkeypatch.setattr(client.voucher_signer, "leave_unreceipted", noted)
    with pytest.raises(VizError):
        await ask(client)
    monkeypatch.setattr(client.api, "voucher", real)
    assert left[0] is True
