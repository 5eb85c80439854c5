"""A node publishes its receipts day by day; only who has a receipt finds it there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.chain import FakeChain
from tests.integration.api.harness import NODE_KEY, Buyer, Node, running_node

from viz.cli.audit.periods import read_periods
from viz.domain.receipt_audit import PublicReceipt
from viz.domain.receipt_periods import PeriodAudit, audit_periods
from viz.errors import StorageUnavailable
from viz.protocol import payment
from viz.protocol.receipt_periods import PERIODS_PATH
from viz.services.payments.receipt_periods import MARGIN_S, PERIOD_S

DAY = PERIOD_S


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def receipts_of(buyer: Buyer) -> list[PublicReceipt]:
    path = payment.RECEIPTS_PATH.format(signer=buyer.signer)
    _, body, _ = await buyer.call("GET", path, headers=buyer.bearer())
    read = payment.receipts_from_json(body)
    return [PublicReceipt(each.receipt, each.lines, each.signature) for each in read]


async def audited(node: Node, *buyers: Buyer) -> PeriodAudit:
    own = [each for buyer in buyers for each in await receipts_of(buyer)]
    periods = await read_periods(node.url)
    return audit_periods(periods, own, (), node=node.chain.address, domain=node.chain.domain)


def next_day(node: Node) -> None:
    node.clock.now = (node.clock.now // DAY + 1) * DAY + MARGIN_S


async def test_every_receipt_is_in_one_period(node: Node) -> None:
    """Of two buyers and two days; the third day waits. Nothing of a buyer is in what is public."""
    first = await Buyer(node).ready()
    second = await Buyer(node, key=b"\x34" * 32).ready()
    await first.ask()
    await second.ask()
    publish = node.parts.receipt_periods.publish
    assert await publish() is None, "the day has not ended"
    next_day(node)
    await first.login()
    await first.ask()
    made = await publish()
    assert made is not None and (made.period.number, made.period.count) == (1, 2)
    assert await publish() is None
    found = await audited(node, first)
    assert (found.included, found.findings) == (1, [])
    assert "1 newer receipt," in found.missing[0]
    next_day(node)
    later = await publish()
    assert later is not None and later.period.previous == made.period.root
    await first.login()
    await second.login()
    found = await audited(node, first, second)
    assert (found.included, found.findings) == (3, [])
    async with node.http.get(node.url + PERIODS_PATH) as response:
        said = await response.text()
        page = json.loads(said)
    assert [each["period"]["number"] for each in page["periods"]] == ["2", "1"]
    blob = b"".join(
        [await (await node.http.get(f"{node.url}/ipfs/{e['cid']}")).read() for e in page["periods"]]
    ).decode()
    for buyer in (first, second):
        assert buyer.signer not in said + blob
    _, older, _ = await first.call("GET", f"{PERIODS_PATH}?before=2")
    assert [each["period"]["number"] for each in older["periods"]] == ["1"]


async def test_a_restarted_node_publishes_no_receipt_twice(tmp_path: Path) -> None:
    """Also if the file that says how far it came was lost."""
    chain, blobs = FakeChain(NODE_KEY), MemoryBlobStore()
    async with running_node(tmp_path, chain=chain, blobs=blobs) as node:
        buyer = await Buyer(node).ready()
        await buyer.ask()
        next_day(node)
        assert await node.parts.receipt_periods.publish() is not None
    (tmp_path / "receipts" / "1.places.json").unlink()
    async with running_node(tmp_path, chain=chain, blobs=blobs) as node:
        buyer.node = node
        assert await node.parts.receipt_periods.publish() is None
        await buyer.login()
        await buyer.ask()
        next_day(node)
        second = await node.parts.receipt_periods.publish()
        assert second is not None and second.period.count == 1
        await buyer.login()
        found = await audited(node, buyer)
        assert (found.included, found.findings) == (2, [])


async def test_a_node_that_was_killed_while_it_published_publishes_the_same(node: Node) -> None:
    """The blob and how far it goes are there, the period is not: it is made again."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    next_day(node)
    periods = node.parts.receipt_periods
    made = await periods.publish()
    assert made is not None
    folder = periods._folder
    (folder / "1.json").unlink()
    periods._kept = None
    assert await periods.publish() == made


async def test_a_damaged_period_is_told_and_not_published_anew(node: Node) -> None:
    """Another period under the same number would convict an honest node."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    next_day(node)
    periods = node.parts.receipt_periods
    await periods.publish()
    (periods._folder / "1.json").write_text("{}")
    periods._kept = None
    with pytest.raises(StorageUnavailable, match="backup"):
        await periods.publish()
    status, _, _ = await buyer.call("GET", PERIODS_PATH)
    assert status == 503


async def test_a_clock_that_was_set_back_loses_no_receipt(node: Node) -> None:
    """A receipt that is stored late is in the next period."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    next_day(node)
    assert await node.parts.receipt_periods.publish() is not None
    node.clock.now -= 2 * MARGIN_S
    await buyer.login()
    await buyer.ask()
    node.clock.now += 2 * MARGIN_S
    next_day(node)
    made = await node.parts.receipt_periods.publish()
    assert made is not None and made.period.count == 1
    await buyer.login()
    assert (await audited(node, buyer)).included == 2
