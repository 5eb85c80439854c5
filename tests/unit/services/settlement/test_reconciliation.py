"""The comparison finds where ledger and chain differ, tells both numbers, and never ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from structlog.testing import capture_logs
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.units import AdapterId, Address, Units
from viz.services.payments.channel_events import ChannelEvents
from viz.services.settlement.reconciliation import Reconciliation

ONE = AdapterId(1)
SIGNER = address_of(0x51)


class Place:
    """A ledger, a chain, and the watchdog over both."""

    def __init__(self, channels_a_pass: int = 256) -> None:
        self.store, self.chain = MemoryStore(), FakeChain(b"\x11" * 32)
        self.watchdog = Reconciliation(
            self.store,
            self.chain,
            self.chain.clock,
            self.chain.address,
            events=ChannelEvents(),
            interval_s=0.001,
            channels_a_pass=channels_a_pass,
        )

    def on_chain(self, deposit: Units, settled: Units, signer: Address = SIGNER) -> None:
        node = self.chain.address
        state = ChannelState(signer, node, address_of(9), deposit, settled, 0)
        self.chain.channels[signer, node] = state

    async def promise(self, units: Units, signer: Address = SIGNER) -> None:
        held = await self.store.channel(signer) or ChannelRecord(signer)
        base = held.lines.get(ONE, ChannelLineRecord()).base_units
        lines = {ONE: ChannelLineRecord(base, base + units)}
        await self.store.commit("voucher", replace(held, lines=lines, signature=b"\1" * 64))


async def test_a_claim_under_way_is_no_mismatch() -> None:
    """Books and chain differ by the rows between them: each of their ends is in order."""
    place = Place()
    place.on_chain(1_000, 0)
    for units in (100, 50):
        await place.promise(units)
        await place.store.freeze(SIGNER, now_s=1)
    for settled in (0, 100, 150):
        place.on_chain(1_000 - settled, settled)
        for _ in range(2):
            assert (await place.watchdog.step()).mismatches == ()


async def test_a_total_that_no_claim_explains_is_told_with_both_numbers() -> None:
    """A dropped row, or another's claim: the operator reads what is booked and what is there."""
    place = Place()
    place.on_chain(1_000, 0)
    await place.promise(100)
    row = await place.store.freeze(SIGNER, now_s=1)
    assert row is not None
    await place.store.finish(row.claim_id, "dropped", "UNKNOWN_ADAPTER")
    with capture_logs() as lines:
        assert (await place.watchdog.step()).mismatches == (), "once may be a claim in between"
        (found,) = (await place.watchdog.step()).mismatches
    assert (found.what, found.books_units, found.chain_units) == ("settled", 100, 0)
    (line,) = lines
    assert (line["log_level"], line["signer"]) == ("error", SIGNER)
    assert (line["books_units"], line["chain_units"]) == (100, 0)
    assert SIGNER in place.watchdog.mismatches
    with capture_logs() as lines:
        await place.watchdog.step()
    assert not lines, "an operator who was told is not told every minute"
    place.on_chain(900, 100)
    assert (await place.watchdog.step()).mismatches == () and not place.watchdog.mismatches


async def test_promises_that_the_chain_does_not_cover_are_told() -> None:
    """A deposit that was withdrawn below what was accepted is a loss, and is said to be one."""
    place = Place()
    place.on_chain(1_000, 0)
    await place.promise(300)
    assert (await place.watchdog.step()).mismatches == ()
    place.on_chain(0, 0)
    await place.watchdog.step()
    (found,) = (await place.watchdog.step()).mismatches
    assert (found.what, found.books_units, found.chain_units) == ("covered", 300, 0)


async def test_a_pass_is_bounded_and_reaches_every_channel() -> None:
    """Ten thousand channels are compared in turn, not at once."""
    place = Place(channels_a_pass=4)
    signers = [address_of(0x100 + number) for number in range(10)]
    for signer in signers:
        await place.promise(5, signer)
    for _ in range(6):
        before = place.chain.reads
        assert (await place.watchdog.step()).channels == 4
        assert place.chain.reads - before == 4
    assert set(place.watchdog.mismatches) <= set(signers) and place.watchdog.mismatches


async def test_a_chain_that_is_away_does_not_end_it() -> None:
    """The daemon outlives an outage, and compares again after it."""
    place = Place()
    await place.promise(5)
    place.on_chain(5, 0)
    place.chain.down = True
    loop = asyncio.create_task(place.watchdog.run())
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not loop.done() and place.watchdog.last.compared_at_s == 0
    place.chain.down = False
    for _ in range(5_000):
        if place.watchdog.last.channels:
            break
        await asyncio.sleep(0.001)
    assert not loop.done() and place.watchdog.last.channels == 1
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
