"""Which requests a buyer of the network asks a node, and what it holds against one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.integration.buyer.test_network import DEPOSIT, Network, chat, network, read

from viz.buyer.ledger.folders import ChannelHeld, directory_of, hold
from viz.buyer.network.budget import Budget
from viz.errors import InvalidRequest

__all__ = ["network"]  # the fixture


async def test_a_channel_that_another_process_uses_is_held_against_no_node(
    network: Network,
) -> None:
    """The cheaper node was ranked last for it, and money was deposited at the dearer one."""
    async with network.buyer() as buyer:
        await read(buyer, chat())
    place = directory_of(network.folder / "buyer", DEPLOYMENT, network.address("b"))
    async with network.buyer() as buyer:
        held = hold(place)
        with pytest.raises(ChannelHeld, match=r"another process pays from.*send your requests to"):
            await read(buyer, chat(seed=2))
        (told,) = (await buyer.spending_report())["channels"]
        assert told["node"] == network.address("b") and int(told["spent"]) > 0, "as its files say"
        held.release()
        assert not buyer._file.read().nodes[network.address("b")].failure
        (part,) = (await read(buyer, chat(seed=3))).parts
        assert part.node == network.address("b")
    assert [each.node for each in network.chain.channels.values()] == [network.address("b")]


@pytest.mark.parametrize("wrong", ["5", [], True, 5.0, 0, -1])
async def test_a_length_that_is_none_does_not_become_the_default(
    network: Network, wrong: Any
) -> None:
    """A program that asked for "5" tokens paid for 256."""
    async with network.buyer() as buyer:
        for name in ("max_tokens", "max_completion_tokens"):
            with pytest.raises(InvalidRequest, match=f"'{name}' must be a whole number"):
                await read(buyer, chat(**{"max_tokens": 60, name: wrong}))
    assert not network.chain.channels


async def test_an_answer_is_estimated_no_longer_than_the_context(network: Network) -> None:
    """Who asks for "as long as possible" was told that it costs the whole cap."""
    async with network.buyer(budget=Budget(DEPOSIT, day_units=20_000)) as buyer:
        assert (await read(buyer, chat(max_tokens=10**9))).text


@pytest.mark.parametrize("wrong", [10**9, 129, 0, -1, True, "2", 1.0])
async def test_a_number_of_choices_that_nobody_computes_is_refused(
    network: Network, wrong: Any
) -> None:
    """A deposit was made for a billion answers, and one node after the other refused them."""
    async with network.buyer() as buyer:
        with pytest.raises(InvalidRequest, match="'n' must be a whole number from 1 to 128"):
            await read(buyer, chat(n=wrong))
        assert not network.chain.channels
        assert len((await read(buyer, chat(n=2, max_tokens=20))).text) == 40
