"""A close request reaches the claim loop whoever sees it, and a vanished opening stops sales."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.units import ZERO_ADDRESS, Address
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channels import ChannelStore
from viz.services.settlement.reconciliation import Reconciliation

SIGNER = address_of(0x51)


def opened() -> FakeChain:
    chain = FakeChain(b"\x11" * 32)
    key = SIGNER, chain.address
    chain.channels[key] = ChannelState(*key, address_of(9), 1_000, 0, 0)
    return chain


@pytest.mark.parametrize("seen_by", ["books", "watchdog"])
async def test_a_close_request_is_told_without_the_watcher(seen_by: str) -> None:
    """An endpoint that serves no logs costs the node no claim: states are read all the same."""
    chain, store, told = opened(), MemoryStore(), list[Address]()
    events = ChannelEvents()
    channels = ChannelStore(store, chain, chain.clock, chain.address, events=events, refresh_s=0)
    watchdog = Reconciliation(store, chain, chain.clock, chain.address, events=events)
    events.close_seen.listen(told.append)
    await store.commit("voucher", ChannelRecord(SIGNER))
    look = channels.get(SIGNER) if seen_by == "books" else watchdog.step()
    key = SIGNER, chain.address
    chain.channels[key] = replace(chain.channels[key], close_at=chain.clock.now + 3_600)
    await look
    assert told == [SIGNER]


async def test_a_reorganised_opening_is_no_deposit() -> None:
    """The block of the opening vanished, and with it the money: the channel is as never opened."""
    chain = opened()
    channels = ChannelStore(
        MemoryStore(), chain, chain.clock, chain.address, events=ChannelEvents()
    )
    active_channel = await channels.get(SIGNER)
    assert active_channel.channel.limit_units == 1_000
    back = chain.channels.pop((SIGNER, chain.address))
    chain.clock.now += 60
    active_channel = await channels.get(SIGNER)
    assert (active_channel.channel.payer, active_channel.channel.limit_units) == (ZERO_ADDRESS, 0)
    chain.channels[SIGNER, chain.address] = back
    chain.clock.now += 60
    assert (await channels.get(SIGNER)).channel.limit_units == 1_000
