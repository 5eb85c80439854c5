"""A buyer whose node's chain hangs: a new process buys on the channel that is open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.api.harness import DEPOSIT, NODE_KEY, PAYER_KEY, Node, running_node
from tests.integration.api.test_chain_trouble import Troubled, troubled
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_client import MODEL, ask, chat

from viz.api.market import own_offers
from viz.domain.eip712 import public_address
from viz.protocol.payment import CHANNEL_PATH
from viz.services.payments.freshness import OLDEST_S


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(own_offers, "CHAIN_WAIT_S", 0.02)
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node", chain=Troubled(NODE_KEY)) as running:
        running.chain.balances[public_address(PAYER_KEY)] = 10**9
        yield running


async def test_a_new_process_buys_while_the_nodes_chain_hangs(node: Node, tmp_path: Path) -> None:
    """All steps of it: description, session, channel, vouchers, answer and receipt."""
    async with buying(node, tmp_path / "buyer") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        before = await ask(client)
    troubled(node).hangs = True
    node.clock.now += OLDEST_S - 10
    for model in (MODEL, node.engine.model.name):
        async with buying(node, tmp_path / "buyer") as client:
            answer = await ask(client, chat(model=model))
            assert answer.receipt is not None and client.channel.seq > 0
            public = CHANNEL_PATH.format(signer=client.signer)
            async with node.http.get(node.url + public) as response:
                assert response.status == 200
    assert before.receipt is not None
