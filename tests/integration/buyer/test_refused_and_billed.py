"""Requests that are refused and billed: by an untrue node, or by a server before a true one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest
from multidict import CIMultiDict
from tests.integration.api.harness import ADAPTER
from tests.integration.buyer.test_untrue_node import ask

from viz.buyer.channels import sync as channel_sync
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.node_standing import BROKEN_ALLOWED
from viz.client import node_client
from viz.client.node_client import problem_of
from viz.errors import NodeNotTrusted, NodeRefused, NodeUnreachable, PriceAboveCap
from viz.protocol.messages import AccessToken
from viz.protocol.payment import VOUCHERS_PATH, Challenge
from viz.protocol.problems import error_of
from viz.protocol.wire import Json


class Refusal:
    """A 402 that asks for more than anything justifies."""

    status = 402

    def __init__(self, challenge: Challenge) -> None:
        assert challenge.need is not None
        more = replace(challenge.need, required_units=900_000)
        self.headers = CIMultiDict({"WWW-Authenticate": replace(challenge, need=more).to_header()})
        self.content = asyncio.StreamReader()
        self.content.feed_data(json.dumps({"code": "payment-required", "detail": "more"}).encode())
        self.content.feed_eof()


@pytest.fixture
def refusing(buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch) -> BuyerClient:
    """A buyer whose node computes and bills each answer, keeps it, and answers 402."""
    real, seen = buyer.api.generate, list[Challenge]()

    @asynccontextmanager
    async def generate(
        path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse | Refusal]:
        async with real(path, body, token, headers) as response:
            if response.status == 402:
                seen.append(Challenge.from_header(response.headers["WWW-Authenticate"]))
                yield response
                return
            await response.read()
        yield Refusal(seen[-1])

    monkeypatch.setattr(buyer.api, "generate", generate)
    monkeypatch.setattr(channel_sync, "LATE_BILL_WAITS_S", (0.0, 0.1))
    return buyer


async def test_refused_and_billed_counts_as_broken_off(refusing: BuyerClient) -> None:
    """The bill is found while the node is paid to begin; before, this went on without an end."""
    for number in range(BROKEN_ALLOWED):
        assert not refusing.voucher_signer.fault
        with pytest.raises((PriceAboveCap, NodeNotTrusted)):
            await ask(refusing, max_tokens=8, seed=number)
        assert refusing.channel.seq == number + 1
    assert "broke off" in refusing.voucher_signer.fault
    signed = refusing.channel.signed_units(ADAPTER)
    with pytest.raises(NodeNotTrusted, match="nothing more"):
        await ask(refusing, max_tokens=8)
    assert refusing.channel.signed_units(ADAPTER) == signed


class GatewayPage:
    """What a reverse proxy answers by itself; no problem document."""

    headers: Mapping[str, str] = {}

    def __init__(self, status: int, page: bytes) -> None:
        self.status = status
        self.content = asyncio.StreamReader()
        self.content.feed_data(page)
        self.content.feed_eof()


PAGES = (
    (502, b"<html><h1>502 Bad Gateway</h1></html>"),
    (503, b'{"message": "no healthy upstream"}'),
    (504, b""),
    (302, b"<html>moved</html>"),
    (403, b"<html>blocked</html>"),
    (404, b"<html>not found</html>"),
    (429, b'{"error": "slow down"}'),
)


@pytest.mark.parametrize(("status", "page"), PAGES)
@pytest.mark.parametrize("billed", [True, False])
async def test_a_proxys_own_error_is_no_refusal(
    buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch, status: int, page: bytes, billed: bool
) -> None:
    """The node may have answered and billed, or may be down: neither accuses it for good."""
    real, fails = buyer.api.generate, True

    @asynccontextmanager
    async def generate(
        path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not fails or billed:
            async with real(path, body, token, headers) as response:
                if not fails or response.status == 402:
                    yield response
                    return
                await response.read()
        raise await problem_of(cast(aiohttp.ClientResponse, GatewayPage(status, page)))

    monkeypatch.setattr(buyer.api, "generate", generate)
    monkeypatch.setattr(channel_sync, "LATE_BILL_WAITS_S", (0.0, 0.1))
    for _ in range(1 if billed else BROKEN_ALLOWED + 2):
        with pytest.raises(NodeUnreachable, match=f"answered {status}.*it costs .* at most"):
            await ask(buyer, max_tokens=8)
    fails = False
    assert await ask(buyer, max_tokens=8)
    assert not buyer.voucher_signer.fault
    assert buyer.channel.seq == (2 if billed else 1)


@pytest.mark.parametrize("status", [502, 504])
async def test_a_voucher_whose_answer_was_lost_is_sent_again(
    buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """One lost answer within a stream ends neither the answer nor, after three, the trust."""
    real, lost = buyer.api._call, list[str]()

    async def call(method: str, path: str, **more: Any) -> Any:
        answer = await real(method, path, **more)
        if path == VOUCHERS_PATH and not (lost and lost[-1] == more["authorization"]):
            lost.append(more["authorization"])
            raise error_of(None, status)
        return answer

    monkeypatch.setattr(buyer.api, "_call", call)
    monkeypatch.setattr(node_client, "VOUCHER_AGAIN_S", 0.01)
    for _ in range(BROKEN_ALLOWED + 1):
        assert await ask(buyer, max_tokens=400)
    assert len(lost) > BROKEN_ALLOWED and not buyer.voucher_signer.fault


async def test_a_page_that_is_no_nodes_answer_is_the_nodes_fault(
    buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buyer of a network goes on at the next node: the question is not what is wrong."""
    token = await buyer.token()

    async def call(method: str, path: str, **more: Any) -> Json:
        return {"status": "ok"}

    monkeypatch.setattr(buyer.api, "_call", call)
    for answer in (
        buyer.api.info(),
        buyer.api.challenge(buyer.signer),
        buyer.api.channel(buyer.signer, token),
        buyer.api.receipts(buyer.signer, 0, token),
    ):
        with pytest.raises(NodeRefused, match="not the answer of a node"):
            await answer


async def test_the_bill_of_an_equal_request_that_was_left_is_no_break(
    buyer: BuyerClient,
) -> None:
    """A late bill is noted for the request under way; if that is refused, the other one has it."""
    signer = buyer.voucher_signer
    with signer.open_request(ADAPTER, b"same") as left:
        left.units = left.arrived_units = left.excused_units = 100
    signer.leave_unreceipted(left)
    with signer.open_request(ADAPTER, b"same") as refused:
        signer._open_requests.note(refused, 1, 90)
        signer.drop(refused)
    assert (left.seq, left.billed_units, refused.seq) == (1, 90, 0)
    assert not signer.standing.broken and not signer.fault
