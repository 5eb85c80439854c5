"""A channel whose write the ledger refused: good again with the ledger, and booked once."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.node_channel import NodeChannel
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord, UnbilledRecord
from viz.domain.reservations import end_reservation, reserve
from viz.domain.units import AdapterId, Hash32, Units
from viz.errors import PaymentRequired, StoreFull
from viz.services.payments.active_channel import ActiveChannel, Change, ChannelUpdate
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channels import ChannelStore

ONE = AdapterId(1)
SIGNER = address_of(0x50)
PAID: Units = 100


class FullDisk(MemoryStore):
    """A store that refuses writes: before they happened, or after, as a lost answer would."""

    refusing: Literal["", "before", "after"] = ""
    reads = True

    async def channel(self, signer: Any) -> ChannelRecord | None:
        if self.refusing and not self.reads:
            raise StoreFull("full")
        return await super().channel(signer)

    async def commit(self, point: str, channel: ChannelRecord, **stored: Any) -> ChannelRecord:
        if self.refusing == "before":
            raise StoreFull("full")
        saved = await super().commit(point, channel, **stored)
        if self.refusing == "after":
            raise StoreFull("full")
        return saved


class Delivered:
    """A request under way that delivered so much."""

    adapter_id = ONE

    def __init__(self, units: Units) -> None:
        self.units, self.noted = units, 0

    def unbooked_units(self) -> Units:
        return self.units - self.noted

    def booked(self, units: Units) -> None:
        self.noted += units

    def unbilled(self) -> UnbilledRecord:
        none = Hash32(bytes(32))
        return UnbilledRecord(b"1", SIGNER, ONE, self.units, 1, 1, none, none, none, none, none)


async def _channels(store: FullDisk) -> tuple[ChannelStore, ActiveChannel]:
    chain = FakeChain(b"\x11" * 32)
    key = SIGNER, chain.address
    chain.channels[key] = ChannelState(*key, address_of(9), 1_000, 0, 0)
    record = ChannelRecord(SIGNER, lines={ONE: ChannelLineRecord(0, PAID)}, signature=b"\1" * 64)
    await store.commit("voucher", record)
    channels = ChannelStore(store, chain, chain.clock, chain.address, events=ChannelEvents())
    return channels, await channels.get(SIGNER)


def _nothing(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
    return ChannelUpdate(channel)


def _billing(units: Units, reserved: Units) -> Change:
    def change(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
        return ChannelUpdate(
            end_reservation(channel, ONE, reserved_units=reserved, spent_units=units)
        )

    return change


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_was_delivered_is_booked_once_whether_the_write_happened(
    moment: Literal["before", "after"],
) -> None:
    """The channel needs no restart, and nobody pays twice for a disk's accident."""
    store = FullDisk()
    channels, active_channel = await _channels(store)
    await channels.change(active_channel, lambda channel: reserve(channel, ONE, 60))
    delivery = Delivered(40)
    active_channel.deliveries.add(delivery)
    store.refusing = moment
    with pytest.raises(StoreFull):
        await channels.commit(active_channel, "voucher", _nothing)
    store.refusing = ""
    await channels.commit(active_channel, "voucher", _nothing)
    assert active_channel.channel.spent == {ONE: 40} and active_channel.channel.reserved == {
        ONE: 20
    }
    assert delivery.noted == 40
    stored = await store.channel(SIGNER)
    assert stored is not None and stored.lines[ONE].spent_units == 40


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_bill_that_had_no_room_is_booked_when_there_is(
    moment: Literal["before", "after"],
) -> None:
    """The node loses no income to a full disk, and the buyer no balance to a reservation."""
    store = FullDisk()
    channels, active_channel = await _channels(store)
    await channels.change(active_channel, lambda channel: reserve(channel, ONE, 70))
    store.refusing = moment
    with pytest.raises(StoreFull):
        await channels.commit(active_channel, "receipt", _billing(30, 70), retry=True)
    store.refusing, store.reads = "before", False
    await channels.recover()  # still full: nothing is lost by trying
    with pytest.raises(StoreFull):
        await channels.commit(active_channel, "voucher", _nothing)
    store.refusing = ""
    await channels.recover()
    await channels.recover()
    stored = await store.channel(SIGNER)
    assert stored is not None and stored.lines[ONE].spent_units == 30
    assert not active_channel.channel.reserved.get(ONE)
    # The whole rest is for sale again, and no unit more.
    await channels.change(active_channel, lambda channel: reserve(channel, ONE, 70))
    with pytest.raises(PaymentRequired):
        await channels.change(active_channel, lambda channel: reserve(channel, ONE, 1))


async def test_bills_wait_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers that ended on the full disk are both booked, however many tries it takes."""
    store = FullDisk()
    channels, active_channel = await _channels(store)
    await channels.change(active_channel, lambda channel: reserve(channel, ONE, 50))
    store.refusing = "before"
    for units in (10, 20):
        with pytest.raises(StoreFull):
            await channels.commit(active_channel, "receipt", _billing(units, 25), retry=True)
    monkeypatch.setattr("viz.services.payments.channels.CHANNELS_KEPT", 0)
    await channels.get(SIGNER)  # crowded out of what was used lately: held all the same
    store.refusing = ""
    await channels.recover()
    assert (await channels.get(SIGNER)) is active_channel
    assert active_channel.channel.spent == {ONE: 30} and not active_channel.channel.reserved.get(
        ONE
    )
    assert not active_channel.unwritten and active_channel.doubt is None
