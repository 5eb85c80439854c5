"""Whole days of a real node: it publishes each by itself when it has ended, a buyer audits them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.engine import fake_adapter_file
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode
from tests.integration.network.test_audits import (
    DIFFERENT,
    INCONCLUSIVE,
    PAYER,
    Market,
    audit,
    opened,
)
from tests.integration.services.claiming import SystemClock

from viz.chain.keys import development_account
from viz.protocol.receipt_periods import PERIODS_PATH
from viz.services.payments.receipt_periods import MARGIN_S, PERIOD_S


async def until(net: Testnet, node: RealNode, time_s: int) -> None:
    """Let the node's clock and the chain's time go on to ``time_s``."""
    step_s = time_s - node.clock.now_s()
    assert step_s > 0
    node.clock.ahead_s += step_s
    await net.anvil.advance_time(step_s)


def next_midnight(clock: SystemClock) -> int:
    return (clock.now_s() // PERIOD_S + 1) * PERIOD_S


@asynccontextmanager
async def publishing(node: RealNode) -> AsyncIterator[None]:
    """Run the node's own loop meanwhile, as its daemon does."""
    loop = asyncio.create_task(node.parts.receipt_periods.run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def published(node: RealNode) -> list[Any]:
    _, page = await node.call("GET", PERIODS_PATH)
    return [each["period"] for each in page["periods"]]


async def looked(node: RealNode, count: int) -> list[Any]:
    """Wait until the node has published so many periods; return them, the newest first.

    Afterwards it has nothing else to publish.
    """
    async with asyncio.timeout(60), publishing(node):
        while len(found := await published(node)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await node.parts.receipt_periods.publish() is None
    return found


async def test_days_are_published_by_the_node_itself_and_audited_by_a_buyer(
    net: Testnet, tmp_path: Path
) -> None:
    """Three answers before midnight and one after it, a day without any, one on the fourth day.

    Nothing is published before the day has ended; the day's blob has the root that the node signed,
    and the audit finds every receipt in its own day. After the close, what was published is what
    was claimed; then one changed amount of a day is found.
    """
    weights = fake_adapter_file(tmp_path / "adapter.safetensors")
    own, payer = tmp_path / "receipts.json", bytes(development_account(PAYER).key)
    async with opened(net, tmp_path, weights) as market:
        node = market.node
        midnight = next_midnight(node.clock)
        await until(net, node, midnight - 600)
        async with market.buyer() as client:
            await client.open_channel(payer, 100_000)
            for _ in range(3):
                await market.ask(client)
            await until(net, node, midnight + 5)
            too_early = await node.parts.receipt_periods.publish()
            assert too_early is None, "the day's last receipts may not be stored yet"
        async with market.buyer() as client:
            await market.ask(client)
            await until(net, node, midnight + MARGIN_S)
            (first,) = await looked(node, 1)
            assert (first["count"], first["until"]) == (3, str(midnight))
            own.write_text(json.dumps(await market.receipts(client)))
        code, told = await audit(market, own)
        assert (code, told["findings"]) == (INCONCLUSIVE, [])
        assert told["published"]["included"] == 3
        assert any("1 newer receipt," in each for each in told["missing"])

        await until(net, node, midnight + PERIOD_S + MARGIN_S)
        second, _ = await looked(node, 2)
        assert (second["count"], second["previous"]) == (1, first["root"])
        await until(net, node, midnight + 2 * PERIOD_S + MARGIN_S)
        assert len(await looked(node, 2)) == 2, "a day without receipts is left out"
        async with market.buyer() as client:
            await market.ask(client)
            own.unlink()
            own.write_text(json.dumps(await market.receipts(client)))
            await until(net, node, midnight + 3 * PERIOD_S + MARGIN_S)
            third, *_ = await looked(node, 3)
            assert (third["count"], third["since"]) == (1, second["until"])
            await client.close_channel(payer)
        code, told = await audit(market, own)
        assert (code, told["verdict"]) == (0, "reproduced"), told
        assert told["published"]["included"] == 5
        assert [each["count"] for each in told["published"]["periods"]] == [3, 1, 1]
        (adapter,) = told["published"]["adapters"]
        assert adapter["published"] == adapter["claimed"]
        await tampered(market, own)


async def tampered(market: Market, own: Path) -> None:
    """Publish the second day with another amount than was signed: the audit names the day."""
    path = market.node.folder / "receipts" / "2.json"
    changed = json.loads(path.read_text())
    changed["period"]["amount"] = str(int(changed["period"]["amount"]) + 1)
    path.write_text(json.dumps(changed))
    market.node.parts.receipt_periods._kept = None
    code, told = await audit(market, own)
    assert code == DIFFERENT
    assert any("period 2 is not signed by" in each for each in told["findings"]), told["findings"]
