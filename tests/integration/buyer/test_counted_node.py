"""Answers that are asked of one named node count in the day's budget, as all others do."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.buyer.test_killed_mid_answer import cut
from tests.integration.buyer.test_network import DEPOSIT, Network, chat, network, read

from viz.buyer.control.commands import ChannelControl
from viz.buyer.network.budget import Budget
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.network.one_node import CountedNode
from viz.errors import BudgetSpent, NodeUnreachable, VizError

__all__ = ["network"]  # the fixture


async def nothing(text: str) -> None:
    """Take a piece of an answer and do nothing with it."""


def control_of(buyer: NetworkBuyer) -> ChannelControl:
    """Return the commands with --node, as a proxy without --node serves them."""
    (client,) = buyer._pool.clients
    return ChannelControl(client, side=CountedNode(client, buyer.day))


async def today(buyer: NetworkBuyer) -> tuple[int, int]:
    """Return what the report says was spent today, and what all channels were billed."""
    said = await buyer.spending_report()
    billed = sum(sum(each.channel.billed.values()) for each in buyer._pool.clients)
    return int(said["today"]), billed


async def ask(control: ChannelControl, **changes: Any) -> int:
    """Ask through the commands; return the cost."""
    return int((await control.ask(chat(**changes), nothing, nothing))["cost"])


async def test_an_answer_of_a_named_node_is_in_the_days_sum(network: Network) -> None:
    """The proxy's deposit fell by 4,006 units, and its day's sum by nothing."""
    async with network.buyer(budget=Budget(DEPOSIT, day_units=100_000)) as buyer:
        await read(buyer, chat(max_tokens=40))
        before, _ = await today(buyer)
        control = control_of(buyer)
        paid = [await ask(control, max_tokens=40, seed=seed) for seed in (2, 3)]
        assert all(paid) and await today(buyer) == (before + sum(paid),) * 2
    async with network.buyer() as later:
        assert later.day.spent_units == before + sum(paid)


async def test_a_named_node_is_paid_within_the_days_limit(network: Network) -> None:
    """With the limit reached, `viz buyer ask --node` paid all the same beside the proxy."""
    async with network.buyer(budget=Budget(DEPOSIT, day_units=900)) as buyer:
        await read(buyer, chat(max_tokens=40))
        control = control_of(buyer)
        for seed in range(2, 40):
            try:
                await ask(control, max_tokens=40, seed=seed)
            except BudgetSpent:
                break
        else:
            pytest.fail("the limit was never reached")
        spent, billed = await today(buyer)
        assert spent == billed <= 900
        said = await CountedNode(buyer._pool.clients[0], buyer.day).spending_report()
        assert (said["today"], said["leftToday"]) == (str(spent), str(900 - spent))
        assert said["maxPerDay"] == "900" and said["node"] == buyer._pool.clients[0].info.node


async def test_a_broken_answer_of_a_named_node_counts(network: Network) -> None:
    """What it may cost is in the day's sum until it is billed, and nothing stays held."""
    async with network.buyer(budget=Budget(DEPOSIT, day_units=100_000)) as buyer:
        await read(buyer, chat(max_tokens=40))
        before, _ = await today(buyer)
        control = control_of(buyer)

        async def break_off(text: str) -> None:
            if text:
                await cut(network.nodes["b"])

        with pytest.raises(VizError) as broken:
            await control.ask(chat(max_tokens=400, seed=9), break_off, nothing)
        assert isinstance(broken.value, NodeUnreachable)
        assert (await today(buyer))[0] > before
        assert not buyer._file.read().held
