"""What counts in the day of a buyer of the network when an answer does not end well."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from tests.integration.api.harness import ADAPTER
from tests.integration.buyer.test_killed_mid_answer import cut
from tests.integration.buyer.test_network import Network, chat, network, read

from viz.buyer.ledger.network_record import NetworkFile, day_of
from viz.domain.units import Units

__all__ = ["network"]  # the fixture


def day_units(network: Network) -> Units:
    record = NetworkFile(network.folder / "buyer").read()
    return record.days.get(day_of(network.chain.clock.now), 0)


async def test_a_part_whose_node_died_counts_with_what_was_signed(network: Network) -> None:
    """It counted with a step more, which nobody can claim: the day's limit was used up early."""
    async with network.buyer() as buyer:
        before = sum(part.units for part in (await read(buyer, chat(seed=3))).parts)
        async with buyer.ask(chat(max_tokens=400)) as answer:
            async for _ in answer:
                if len(answer.text) >= 40 and not answer.parts:
                    await cut(network.nodes["b"])
        first, second = answer.parts
        (client,) = (each for each in buyer._pool.clients if each.info.node == network.address("b"))
        assert not first.billed and first.units == client.channel.unused_units(ADAPTER)
        assert day_units(network) == before + first.units + second.units


async def test_a_beginning_that_was_paid_counts_if_the_caller_leaves(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's connection ends before the first text: what was signed was in no sum."""
    monkeypatch.setattr(network.nodes["b"].engine, "_bound", lambda line: 0)
    async with network.buyer() as buyer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0), buyer.ask(chat()) as answer:
                async for _ in answer:
                    pass
        (client,) = buyer._pool.clients
        assert day_units(network) == client.channel.unused_units(ADAPTER) > 0


async def test_a_killed_process_holds_what_it_signed_and_then_its_bill(network: Network) -> None:
    """Its folder is copied in mid-answer, as a kill leaves it; the node bills the answer later."""
    copy = network.folder / "copy"
    async with network.buyer() as buyer, buyer.ask(chat(max_tokens=400)) as answer:
        async for _ in answer:
            if len(answer.text) >= 40:
                shutil.copytree(network.folder / "buyer", copy)
                break
    (before,) = NetworkFile(copy).read().held.values()
    async with network.buyer(home=copy) as again:
        (part,) = (await read(again, chat(seed=2))).parts
        (client,) = again._pool.clients
        record = NetworkFile(copy).read()
        assert not record.held and client.channel.seq == 2
        billed = client.channel.billed_units(ADAPTER)
        assert record.days[day_of(network.chain.clock.now)] == billed > part.units
        assert billed - part.units < before[1]
