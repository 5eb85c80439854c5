"""What is sold, for how long, and what a voucher may pay for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node

from viz.domain.eip712 import sign_compact
from viz.domain.units import BASE_MODEL, AdapterId, Hash32
from viz.domain.usage import UsageLine
from viz.protocol import payment
from viz.services.serving.catalogue import ENDING_LOOK_S
from viz.services.serving.servability import ENDING_MARGIN_S


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def test_a_voucher_pays_only_for_what_is_sold_or_was_used_here(node: Node) -> None:
    """Lines for adapters that this node never sold would cost it gas at every claim."""
    buyer = await Buyer(node).ready()
    never = AdapterId(8)
    node.chain.put_adapter(never, Hash32(b"\7" * 32))
    good = buyer.voucher(ADAPTER, 1_000, 0)
    row = replace(good.row, lines=(*good.row.lines, UsageLine(never, 9)))
    digest = buyer.domain.digest(row.voucher(node.chain.address))
    wide = replace(good, row=replace(row, signature=sign_compact(buyer.key, digest)))
    answered, problem = await buyer.pay(payment.VOUCHERS_PATH, wide)
    assert (answered, problem["code"]) == (404, "unknown-adapter")
    assert "not sold here" in problem["detail"]
    assert (await buyer.pay(payment.VOUCHERS_PATH, good))[0] == 200
    await node.parts.catalogue.drop(ADAPTER)
    more = buyer.voucher(ADAPTER, 2_000, 0)
    assert (await buyer.pay(payment.VOUCHERS_PATH, more))[0] == 200, (
        "promised before it was dropped"
    )


async def test_an_adapter_that_ends_is_sold_until_its_earnings_can_be_claimed(node: Node) -> None:
    """The last hour before its end is for claims: after it they would all be the contents'."""
    buyer = await Buyer(node).ready()
    node.chain.ending[ADAPTER] = node.clock.now + ENDING_MARGIN_S + 600
    assert (await buyer.ask()).status == 200
    _, models, _ = await buyer.call("GET", "/v1/models")
    until = [each["viz"].get("soldUntil") for each in models["data"]]
    assert until == [None, node.chain.ending[ADAPTER] - ENDING_MARGIN_S], "buyers see the date"
    assert await node.parts.catalogue.claim_by(ADAPTER) is None
    node.clock.now += 600
    answer = await buyer.ask(pays=False)
    assert answer.status == 403 and "its sale has stopped" in answer.body["detail"]
    assert await node.parts.catalogue.claim_by(ADAPTER) == node.chain.ending[ADAPTER]


async def test_what_the_chain_no_longer_permits_is_on_no_list(node: Node) -> None:
    """After a revoked permission the node named itself as a seller of what it then refused."""
    catalogue = node.parts.catalogue

    def listed() -> list[AdapterId]:
        return [offer.adapter_id for offer in catalogue.offers()]

    await catalogue.look()
    assert listed() == [BASE_MODEL, ADAPTER]
    node.chain.unservable[ADAPTER] = "its trainer's permission to this node has ended"
    node.clock.now += ENDING_LOOK_S + 1
    with structlog.testing.capture_logs() as logs:
        await catalogue.look()
        await catalogue.look()
    assert listed() == [BASE_MODEL]
    told = [each for each in logs if each["event"] == "an adapter is not sold"]
    assert [each["adapter_id"] for each in told] == [ADAPTER], "once, not at every look"
    del node.chain.unservable[ADAPTER]
    node.clock.now += ENDING_LOOK_S + 1
    await catalogue.look()
    assert listed() == [BASE_MODEL, ADAPTER], "permitted again, it is sold again"
    node.chain.ending[ADAPTER] = node.clock.now + 2 * ENDING_LOOK_S + ENDING_MARGIN_S
    node.clock.now += ENDING_LOOK_S + 1
    await catalogue.look()
    assert listed() == [BASE_MODEL, ADAPTER]
    node.clock.now += ENDING_LOOK_S
    assert listed() == [BASE_MODEL], "its last hour is for claims"


async def test_nothing_is_sold_on_a_deposit_whose_block_vanished(node: Node) -> None:
    """What was signed on it cannot be claimed: neither a request nor a voucher is taken."""
    buyer = await Buyer(node).ready()
    assert (await buyer.ask()).status == 200
    ahead = buyer.voucher(ADAPTER, 500_000, 0)
    assert (await buyer.pay(payment.VOUCHERS_PATH, ahead))[0] == 200
    back = node.chain.channels.pop((buyer.signer, node.chain.address))
    node.clock.now += 6
    assert (await buyer.ask(pays=False)).status == 402
    status, problem = await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 600_000, 0))
    assert (status, problem["code"]) == (402, "channel-unknown"), problem
    node.chain.channels[buyer.signer, node.chain.address] = back
    node.clock.now += 6
    assert (await buyer.ask()).status == 200
