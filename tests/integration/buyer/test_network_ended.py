"""A buyer who names no node asks for an adapter that ended: it is told why, since when, and what
follows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER
from tests.integration.buyer.test_killed_mid_answer import cut
from tests.integration.buyer.test_network import MODEL, Network, chat, network, read

from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId, ContentId
from viz.errors import AdapterEnded, UnknownModel
from viz.services.withdrawal.withdrawal_watch import WITHDRAWN

__all__ = ["network"]  # the fixture

NEXT = AdapterId(9)


async def succeed(network: Network, name: str) -> None:
    """Put a successor of another title on offer at a node."""
    node, state = network.nodes[name], network.chain.adapter_states[ADAPTER]
    (record,) = node.parts.catalogue.records()
    network.chain.put_adapter(NEXT, record.weights_digest, state.base_model)
    await node.engine.add_adapter(NEXT, Path(record.path))
    await node.parts.catalogue.add(replace(record, adapter_id=NEXT, name="tides, second edition"))
    await node.parts.catalogue.succeed(ADAPTER, NEXT)


async def end_all(network: Network) -> None:
    """End the adapter at every node; a successor stays on offer."""
    now_s = network.chain.clock.now
    for node in network.nodes.values():
        (record,) = [each for each in node.parts.catalogue.records() if each.adapter_id == ADAPTER]
        ended = AdapterEnd(ContentId(3), WITHDRAWN, now_s - 900, now_s - 1)
        await node.parts.catalogue.end(record, ended)
    state = network.chain.adapter_states[ADAPTER]
    network.chain.adapter_states[ADAPTER] = replace(state, retires_at=now_s - 1)


@pytest.mark.parametrize("chain", [True, False], ids=["own chain", "no chain"])
@pytest.mark.parametrize("asked", [MODEL, "Tides"])
async def test_who_names_no_node_is_told_why_an_adapter_is_no_longer_sold(
    network: Network, asked: str, *, chain: bool
) -> None:
    """Reason, dates and successor, from a node that sold it; nothing is deposited or spent."""
    await succeed(network, "c")
    await end_all(network)
    async with network.buyer(chain=chain, urls=(network.nodes["c"].url,)) as buyer:
        with pytest.raises(AdapterEnded) as refused:
            await read(buyer, chat(model=asked))
        with pytest.raises(AdapterEnded):
            await buyer.model_entry(asked)
        with pytest.raises(UnknownModel):
            await read(buyer, chat(model="never sold"))
    told, more = refused.value.detail, refused.value.extensions
    assert told.startswith(network.nodes["c"].url) and "work 3 was withdrawn" in told
    assert "its successor is viz-adapter-9" in told
    assert (more["reason"], more["successor"]) == (WITHDRAWN, "viz-adapter-9")
    assert not network.chain.channels


async def test_a_title_that_was_used_is_told_by_its_id_where_a_node_forgot_it(
    network: Network,
) -> None:
    """The buyer's own record says what the title meant, whatever the nodes call it now."""
    async with network.buyer() as buyer:
        assert (await read(buyer, chat(model="tides"))).model == MODEL
    for node in network.nodes.values():
        catalogue = node.parts.catalogue
        await catalogue.add(replace(catalogue.records()[0], name="renamed"))
    await end_all(network)
    async with network.buyer() as buyer:
        with pytest.raises(AdapterEnded, match=f"adapter {ADAPTER} ended"):
            await read(buyer, chat(model="tides"))


async def test_a_node_that_lies_about_an_end_is_not_believed(network: Network) -> None:
    """It would send buyers to a successor of its choice; the buyer's chain says otherwise."""
    await end_all(network)
    state = network.chain.adapter_states[ADAPTER]
    network.chain.adapter_states[ADAPTER] = replace(state, retires_at=2**64 - 1)
    async with network.buyer() as buyer:
        with pytest.raises(UnknownModel):
            await read(buyer, chat(model=MODEL))


async def test_an_end_that_came_after_the_search_is_told_too(network: Network) -> None:
    """The market that the buyer read lists the adapter, and every node refuses it by then."""
    async with network.buyer() as buyer:
        await buyer.models()
        await end_all(network)
        await cut(network.nodes["c"])
        with pytest.raises(AdapterEnded, match="work 3 was withdrawn"):
            await read(buyer, chat())
