"""Paid requests while the chain fails, refuses or hangs: sold on for an hour, without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import FakeChain
from tests.integration.api.harness import NODE_KEY, Buyer, Node, running_node

from viz.api.market import own_offers
from viz.api.market.own_offers import NODE_KEPT_S
from viz.domain.ports.chain import ChannelState, ServingState
from viz.domain.units import AdapterId, Address
from viz.errors import ChainMismatch, ChainUnreachable
from viz.protocol import payment
from viz.services.payments.freshness import OLDEST_S
from viz.services.upkeep.clock_check import ClockCheck


class Troubled(FakeChain):
    """A chain whose endpoint hangs, or refuses with an error."""

    hangs = False
    error: Exception | None = None

    async def _trouble(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error

    async def chain_time(self) -> int:
        await self._trouble()
        return await super().chain_time()

    async def servable(self, adapter_id: AdapterId, node: Address) -> ServingState:
        await self._trouble()
        return await super().servable(adapter_id, node)

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None:
        await self._trouble()
        return await super().channel(signer, node, confirmed=confirmed)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path, chain=Troubled(NODE_KEY)) as running:
        yield running


def troubled(node: Node) -> Troubled:
    assert isinstance(node.chain, Troubled)
    return node.chain


async def test_paid_requests_do_not_wait_for_a_chain_that_hangs(node: Node) -> None:
    """An endpoint that takes every question and answers none keeps no paid request waiting."""
    buyer = await Buyer(node).ready()
    assert (await buyer.ask()).status == 200
    troubled(node).hangs = True
    for body in (buyer.chat(), buyer.chat(model=node.engine.model.name)):
        for _ in range(3):
            node.clock.now += 90
            answer = await buyer.ask(body)
            assert (answer.status, answer.receipt is not None) == (200, True), answer.body


@pytest.mark.parametrize(
    "error", [ChainUnreachable("refused: request rate limited"), TypeError("null"), KeyError("x")]
)
async def test_an_hour_is_sold_without_the_chain_and_no_more(node: Node, error: Exception) -> None:
    """Refusals, odd answers and bugs alike: adapters and the base model, until a stated bound."""
    buyer = await Buyer(node).ready()
    chats = buyer.chat(), buyer.chat(model=node.engine.model.name)
    assert (await buyer.ask()).status == 200
    troubled(node).error = error
    node.clock.now += OLDEST_S // 2
    await buyer.login()
    assert [(await buyer.ask(body)).status for body in chats] == [200, 200]
    node.clock.now += OLDEST_S // 2 + 1
    await buyer.login()
    for body in chats:
        answer = await buyer.ask(body, pays=False)
        assert (answer.status, answer.body["code"]) == (503, "chain-unreachable")
    troubled(node).error = None
    node.clock.now += 60
    assert [(await buyer.ask(body)).status for body in chats] == [200, 200]


async def test_vouchers_are_taken_while_the_chain_hangs(node: Node) -> None:
    """A voucher within the deposit is acknowledged; one beyond it is refused and keeps nobody."""
    buyer = await Buyer(node).ready()
    assert (await buyer.ask()).status == 200
    troubled(node).hangs = True
    node.clock.now += 90
    assert (await buyer.ask()).status == 200
    base = buyer.channel.settled_units
    status, _ = await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(AdapterId(7), 900_000, base))
    assert status == 200


async def told(node: Node) -> tuple[int, Any]:
    status, body, _ = await Buyer(node).call("GET", payment.NODE_PATH)
    return status, body


async def test_a_node_says_what_it_sells_while_its_chain_hangs(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every buyer asks this first: the last reading serves, and the time goes on from it."""
    monkeypatch.setattr(own_offers, "CHAIN_WAIT_S", 0.02)
    _, before = await told(node)
    troubled(node).hangs = True
    for past_s in (1, OLDEST_S // 2, OLDEST_S - 1):
        node.clock.now = before["chainTime"] + past_s
        assert await told(node) == (200, {**before, "chainTime": node.clock.now})


async def test_what_a_node_says_is_an_hour_old_at_most(node: Node) -> None:
    """A refusal serves the last reading too; without one, or with an older one, it is told."""
    troubled(node).error = ChainUnreachable("refused: request rate limited")
    unread = await told(node)
    assert (unread[0], unread[1]["code"]) == (503, "chain-unreachable")
    troubled(node).error = None
    node.clock.now += NODE_KEPT_S
    assert (await told(node))[0] == 200
    troubled(node).error = ChainUnreachable("refused: request rate limited")
    node.clock.now += OLDEST_S - 1
    assert (await told(node))[0] == 200
    node.clock.now += NODE_KEPT_S
    status, problem = await told(node)
    assert (status, problem["code"]) == (503, "chain-unreachable")
    troubled(node).error = None
    node.clock.now += NODE_KEPT_S
    assert (await told(node))[1]["chainTime"] == node.clock.now


async def test_another_chain_is_hidden_by_no_earlier_reading(node: Node) -> None:
    """An endpoint of another chain is no silence of the own one."""
    assert (await told(node))[0] == 200
    troubled(node).error = ChainMismatch("the endpoint is of chain 5")
    node.clock.now += NODE_KEPT_S
    status, problem = await told(node)
    assert (status, problem["code"]) == (502, "chain-mismatch")


async def test_a_node_that_nobody_asked_keeps_a_reading(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first buyer of a quiet day may come while the chain hangs."""
    monkeypatch.setattr(own_offers, "CHAIN_WAIT_S", 0.02)
    reading = asyncio.create_task(node.parts.deposit_relay.run())
    await asyncio.sleep(0)
    assert node.parts.deposit_relay.last_terms is not None
    troubled(node).hangs = True
    node.clock.now += 90
    assert (await told(node))[0] == 200
    reading.cancel()


async def test_a_wrong_clock_takes_no_deposit_and_is_told(node: Node) -> None:
    """What could not be used is not taken, and whoever watches the node sees why."""
    chain_s = node.clock.now - 86_400

    async def next_s() -> int:
        return chain_s

    check = ClockCheck(next_s, next_s, node.clock, development=False)
    object.__setattr__(node.parts, "clock_check", check)
    node.parts.deposit_relay._require_clock = check.require
    await check.step()
    buyer = Buyer(node)
    status, problem = await buyer.pay(payment.CHANNELS_PATH, buyer.deposit())
    assert (status, problem["code"]) == (503, "clock-wrong") and not node.chain.sent
    status, health, _ = await buyer.call("GET", "/healthz")
    assert (status, health["clock"]) == (503, "86400 s ahead of the chain")
    chain_s = node.clock.now
    await check.step()
    await buyer.open()
    assert (await buyer.call("GET", "/healthz"))[0] == 200
