"""One wrong answer of the chain's endpoint loses no claim."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from tests.fakes.chain import FakeChain
from tests.fakes.ledger import MemoryStore
from tests.unit.services.settlement.test_claim_failures import KEY, claim_service, promise

from viz.domain.claim_rows import RowStatus
from viz.domain.ports.chain import ChannelState
from viz.domain.units import Address, Units
from viz.services.settlement.claim_loop import (
    DROP_AFTER_PASSES,
    DROP_AFTER_S,
)


@dataclass
class Odd(FakeChain):
    """A chain whose endpoint judges rows, or tells settled totals, as it is told to."""

    status: RowStatus | None = None
    total_units: Units | None = None

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        found = await super().preview_claim(node, rows)
        return (self.status,) * len(found) if self.status is not None else found

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None:
        found = await super().channel(signer, node, confirmed=confirmed)
        if found is None or self.total_units is None:
            return found
        return replace(found, settled_units=self.total_units)


@pytest.mark.parametrize("status", [RowStatus.UNKNOWN_ADAPTER, RowStatus.BAD_SIGNATURE])
async def test_a_row_that_was_judged_wrongly_is_claimed_in_the_next_pass(status: RowStatus) -> None:
    """Protects 60 units from an endpoint that is wrong once, or for some minutes."""
    chain, store = Odd(b"\x11" * 32), MemoryStore()
    signer = await promise(store, chain, KEY)
    settlement = claim_service(chain, store)
    chain.status = status
    for _ in range(2 * DROP_AFTER_PASSES):
        assert (await settlement.step()).dropped == 0
    chain.status = None
    assert (await settlement.step()).settled == 1
    assert chain.channels[signer, chain.address].settled_units == 60


async def test_what_the_chain_refuses_for_an_hour_is_dropped_and_can_be_claimed_again() -> None:
    """The same answer is believed in the end; other answers in between begin the hour anew."""
    chain, store = Odd(b"\x11" * 32), MemoryStore()
    signer = await promise(store, chain, KEY)
    settlement = claim_service(chain, store)
    dropped = []
    for status in [RowStatus.BAD_SIGNATURE, RowStatus.WRONG_BASE, *[RowStatus.BAD_SIGNATURE] * 3]:
        chain.status = status
        dropped.append((await settlement.step()).dropped)
        chain.clock.now += DROP_AFTER_S // 2
    assert dropped == [0, 0, 0, 0, 1] and not await store.frozen()
    chain.status = None
    assert (await settlement.step()).settled == 0
    assert (await settlement.step(force=True)).settled == 1
    assert chain.channels[signer, chain.address].settled_units == 60


@pytest.mark.parametrize("total_units", [61, 10**6, 2**95])
async def test_a_settled_total_at_which_no_row_ends_settles_none(total_units: Units) -> None:
    """Protects a row that nobody claimed from being taken for claimed."""
    chain, store = Odd(b"\x11" * 32), MemoryStore()
    signer = await promise(store, chain, KEY)
    assert await store.freeze(signer, now_s=1)
    settlement = claim_service(chain, store)
    chain.total_units = total_units
    assert await settlement._finish_settled() == 0
    chain.total_units = None
    assert (await settlement.step()).settled == 1
    assert chain.channels[signer, chain.address].settled_units == 60
