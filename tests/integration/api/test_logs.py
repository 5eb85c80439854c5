"""What the daemon's log says of a request: its id, its channel, and no other's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import structlog
from structlog.testing import capture_logs
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node

from viz.domain.typed_data import channel_id
from viz.domain.units import hex_of
from viz.protocol import payment


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


def channel_of(buyer: Buyer) -> str:
    return hex_of(channel_id(buyer.signer, buyer.node.chain.address))


async def test_a_request_is_logged_with_its_id_and_its_channel(node: Node) -> None:
    """An operator who is shown a request id or a channel finds every line about it."""
    buyer = await Buyer(node).ready()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await buyer.ask()
        await buyer.view()
    said = {(line["path"], line["channel"]) for line in lines if line["event"] == "request"}
    ours = channel_of(buyer)
    assert said == {
        (payment.CHAT_PATH, ours),
        (payment.VOUCHERS_PATH, ours),
        (payment.CHANNEL_PATH, ours),
    }
    identified = {line["request_id"] for line in lines if line["event"] == "request"}
    assert answer.headers["X-Request-Id"] in identified


async def test_a_refusal_names_the_channel_too(node: Node) -> None:
    """What went wrong on a channel is found by the channel."""
    buyer = await Buyer(node).ready()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        presented = buyer.voucher(ADAPTER, 1_000, 0)
        forged = replace(presented, row=replace(presented.row, signature=b"\1" * 64))
        status, _ = await buyer.pay(payment.VOUCHERS_PATH, forged)
    refused = next(line for line in lines if line["event"] == "refused")
    assert status == 401 and refused["channel"] == channel_of(buyer) and refused["request_id"]


async def test_a_request_does_not_inherit_the_channel_of_the_one_before(node: Node) -> None:
    """Two requests share a connection: the second's lines must not blame the first's buyer."""
    buyer = await Buyer(node).ready()
    path = payment.CHANNEL_PATH.format(signer=buyer.signer)
    reused: list[str] = []

    async def note(*_: object) -> None:
        reused.append("the connection")

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note)
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with aiohttp.ClientSession(trace_configs=[trace]) as http:
            for asked in (path, payment.NODE_PATH):
                async with http.get(node.url + asked) as response:
                    await response.read()
    first, second = (line for line in lines if line["event"] == "request")
    assert reused and first["channel"] == channel_of(buyer) and "channel" not in second
    assert first["request_id"] != second["request_id"]
