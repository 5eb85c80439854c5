"""What ``build_services`` joins: one service's news reaches the other through a running node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest_asyncio
from tests.integration.api.harness import Buyer, Node, running_node


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as started:
        yield started


async def test_a_close_that_a_request_sees_is_claimed_at_once(node: Node) -> None:
    """Protects income: whoever reads the close request first, the claim loop hears of it."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    assert (await node.parts.settlement.step()).frozen == 0, "too little, and too young"
    key = buyer.signer, node.chain.address
    node.chain.channels[key] = replace(
        node.chain.channels[key], close_at=node.chain.clock.now + 3_600
    )
    node.clock.now += 60
    await buyer.view()
    assert (await node.parts.settlement.step()).settled == 1


async def test_a_request_after_a_claim_stands_on_the_new_base(node: Node) -> None:
    """Protects buyers: the voucher that is asked for next is not one on a base that is claimed."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    claimed = await node.parts.settlement.step(force=True)
    assert claimed.settled == 1
    settled_units = node.chain.channels[buyer.signer, node.chain.address].settled_units
    await buyer.observe()
    need = (await buyer.need_of(buyer.chat())).need
    assert need is not None and need.base_units == settled_units > 0
