"""The buyer pays with the request itself once the node has asked, and a node may ignore that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api.harness import ADAPTER, DEPOSIT, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_client import ask, chat

from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.services.serving.paid_stream import ServingPolicy


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Node, BuyerClient]]:
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node", policy=ServingPolicy(step_tokens=32)) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "b", count_tokens=node.engine.count_tokens) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            yield node, client


async def test_later_requests_bring_their_voucher(
    running: tuple[Node, BuyerClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first need one round trip does: no 402, and no voucher on its own."""
    node, client = running
    await ask(client, chat(max_tokens=8))

    async def none(*_: Any) -> None:
        raise AssertionError("a voucher was sent on its own")

    monkeypatch.setattr(client.api, "voucher", none)
    asked = len(node.parts.serving._quotes._issued)
    signed = 0
    for number in range(12):
        answer = await ask(client, chat(f"question {number}", max_tokens=8))
        assert answer.receipt is not None
        assert client.channel.signed_units(ADAPTER) >= max(signed, 1)
        signed = client.channel.signed_units(ADAPTER)
    assert len(node.parts.serving._quotes._issued) == asked, "no request was answered with a 402"
    kept = await node.store.channel(client.channel.signer)
    assert kept is not None
    assert kept.lines[ADAPTER].spent_units <= kept.lines[ADAPTER].accepted_units <= signed


async def test_a_node_that_ignores_vouchers_on_requests_is_paid_as_before(
    running: tuple[Node, BuyerClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older node answers 402, and its need is paid by a voucher on its own."""
    _, client = running

    async def ignore(*_: Any) -> None:
        return None

    monkeypatch.setattr("viz.api.openai.routes.take_voucher_of", ignore)
    for number in range(8):
        assert (await ask(client, chat(f"question {number}"))).receipt is not None


async def test_a_claim_in_between_moves_the_base_of_a_riding_voucher(
    running: tuple[Node, BuyerClient],
) -> None:
    """The node refuses a voucher on the old base; the buyer follows and is served."""
    node, client = running
    for number in range(4):
        assert (await ask(client, chat(f"question {number}"))).receipt is not None
        await node.parts.settlement.step(force=True)
    assert client.channel.seq == 4
