"""One channel is one object as long as anybody holds it, so its money is seen by all who sell."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.node_channel import NodeChannel
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.reservations import end_reservation, reserve
from viz.domain.units import AdapterId, Address, Units
from viz.errors import PaymentRequired, StoreConflict
from viz.services.payments import channels as module
from viz.services.payments.active_channel import ActiveChannel, ChannelUpdate
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channels import ChannelStore

ONE = AdapterId(1)
PAID: Units = 100
SIGNERS = [address_of(0x50 + number) for number in range(6)]


class SlowStore(MemoryStore):
    """A store whose reads end in any order, as a disk's may."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def channel(self, signer: Address) -> ChannelRecord | None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        return await super().channel(signer)


async def paid_books(store: MemoryStore) -> ChannelStore:
    """Return channels on which each signer has paid ``PAID`` units for one adapter."""
    chain = FakeChain(b"\x11" * 32)
    for signer in SIGNERS:
        key = signer, chain.address
        chain.channels[key] = ChannelState(*key, address_of(9), 1_000, 0, 0)
        record = ChannelRecord(
            signer, lines={ONE: ChannelLineRecord(0, PAID)}, signature=b"\1" * 64
        )
        await store.commit("voucher", record)
    return ChannelStore(store, chain, chain.clock, chain.address, events=ChannelEvents())


def taking(units: Units) -> Callable[[NodeChannel], NodeChannel]:
    """Return the change that sets so much aside."""
    return lambda channel: reserve(channel, ONE, units)


async def test_a_balance_is_not_spent_again_by_a_channel_that_came_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between reading a channel and reserving on it, others crowd it out: it is one all the same.

    Before, each reading after an eviction had the whole balance again.
    """
    monkeypatch.setattr(module, "CHANNELS_KEPT", 1)
    channels = await paid_books(MemoryStore())
    first = await channels.get(SIGNERS[0])
    await channels.get(SIGNERS[1])
    second = await channels.get(SIGNERS[0])
    await channels.change(first, taking(60))
    with pytest.raises(PaymentRequired):
        await channels.change(second, taking(60))


@pytest.mark.parametrize("seed", range(30))
async def test_however_channels_come_and_go_no_balance_is_exceeded(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Buyers beyond what is kept, each asking at once: held money never exceeds what was paid."""
    chance = random.Random(seed)
    monkeypatch.setattr(module, "CHANNELS_KEPT", chance.randrange(1, 4))
    store = SlowStore(chance)
    channels = await paid_books(store)
    held = dict.fromkeys(SIGNERS, 0)
    spent = dict.fromkeys(SIGNERS, 0)

    async def ask(signer: Address) -> None:
        active_channel = await channels.get(signer)
        units = chance.randrange(1, 60)
        used = chance.randrange(units + 1)

        def take(channel: NodeChannel) -> NodeChannel:
            after = reserve(channel, ONE, units)
            held[signer] += units
            assert spent[signer] + held[signer] <= PAID
            return after

        def bill(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
            held[signer] -= units
            spent[signer] += used
            return ChannelUpdate(
                end_reservation(channel, ONE, reserved_units=units, spent_units=used)
            )

        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        try:
            await channels.change(active_channel, take)
        except PaymentRequired:
            return
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        await channels.commit(active_channel, "receipt", bill)

    await asyncio.gather(*(ask(chance.choice(SIGNERS)) for _ in range(80)))
    for signer in SIGNERS:
        record = await store.channel(signer)
        assert record is not None and record.lines[ONE].spent_units == spent[signer] <= PAID


async def test_an_object_that_is_not_the_channels_own_is_refused() -> None:
    """A copy does not see what others reserved: nothing is written or reserved through it."""
    channels = await paid_books(MemoryStore())
    active_channel = await channels.get(SIGNERS[0])
    copy = ActiveChannel(active_channel.channel, active_channel.record)
    with pytest.raises(StoreConflict):
        await channels.change(copy, taking(60))
    with pytest.raises(StoreConflict):
        await channels.commit(copy, "voucher", lambda channel, _: ChannelUpdate(channel))
