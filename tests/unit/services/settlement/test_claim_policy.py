"""A claim is made when it brings more than its gas costs, counted line by line, and in time."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import public_address, sign_compact
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.units import ZERO_HASH, AdapterId, Address, Units
from viz.domain.usage import UsageLine
from viz.errors import InvalidRequest
from viz.services.payments.channel_events import ChannelEvents
from viz.services.settlement.claim_loop import ClaimService
from viz.services.settlement.claim_policy import LAST_CALL_S, ClaimPolicy, claim_gas

GAS = json.loads((Path(__file__).parents[4] / "docs" / "gas.json").read_text(encoding="utf-8"))
GWEI = 10**9
DOLLARS = 1_000_000
COIN = 3_000 * DOLLARS
HOUR_S = 3_600


class Place:
    """A node with a ledger, a chain and a fee that a test sets."""

    def __init__(self, fee_wei: int = 2 * GWEI) -> None:
        self.chain, self.store, self.fee_wei = FakeChain(b"\x11" * 32), MemoryStore(), fee_wei
        self.ends: dict[AdapterId, int] = {}
        policy = ClaimPolicy(10 * DOLLARS, HOUR_S, coin_units=COIN)
        self.settlement = ClaimService(
            self.chain,
            self.chain,
            self.store,
            self.chain.clock,
            policy,
            events=ChannelEvents(),
            fee_wei=self.fee,
            claim_by=self.claim_by,
        )

    async def fee(self) -> int:
        return self.fee_wei

    async def claim_by(self, adapter_id: AdapterId) -> int | None:
        return self.ends.get(adapter_id)

    async def promise(self, number: int, units: Units, adapters: Collection[int] = (0,)) -> Address:
        """Open a channel and let its buyer sign ``units`` in all, a unit to each but the first."""
        key = bytes([number]) * 32
        signer, node = public_address(key), self.chain.address
        state = ChannelState(signer, node, address_of(9), units, 0, 0)
        self.chain.channels[signer, node] = state
        first, *others = sorted(adapters)
        amounts = {AdapterId(first): units - len(others)} | {AdapterId(each): 1 for each in others}
        lines = tuple(UsageLine(*each) for each in amounts.items())
        row = SignedVoucher(0, ZERO_HASH, lines, b"")
        signature = sign_compact(key, self.chain.domain.digest(row.voucher(node)))
        kept = {key: ChannelLineRecord(0, units) for key, units in amounts.items()}
        record = ChannelRecord(signer, 0, kept, signature, voucher_at=self.chain.clock.now)
        await self.store.commit("voucher", record)
        return signer

    def leave(self, signer: Address, in_s: int) -> None:
        """Let the payer ask for the close, which may be withdrawn ``in_s`` seconds from now."""
        node, at = self.chain.address, self.chain.clock.now + in_s
        was = self.chain.channels[signer, node]
        self.chain.channels[signer, node] = replace(was, close_at=at)
        self.settlement.close_requested(signer)

    def settled(self, signer: Address) -> Units:
        return self.chain.channels[signer, self.chain.address].settled_units


@pytest.mark.parametrize(
    ("rows", "lines"), [(1, 1), (1, 10), (10, 1), (10, 10), (100, 1), (100, 10)]
)
def test_the_gas_model_is_what_was_measured(rows: int, lines: int) -> None:
    """Within 2 %, and never below: rows, adapters and lines all count (docs/gas.md)."""
    measured = GAS[f"Settlement.claim {rows}x{lines}, steady, the batch"]
    modelled = claim_gas([[AdapterId(each) for each in range(lines)]] * rows)
    assert measured <= modelled <= measured * 1.02


async def test_what_costs_more_than_it_brings_is_not_claimed_however_old() -> None:
    """A one-unit voucher, and ten dollars spread over 255 lines (5 million gas), are left alone."""
    place = Place()
    dust = await place.promise(1, 1)
    wide = await place.promise(2, 10 * DOLLARS, range(255))
    place.chain.clock.now += 2 * HOUR_S
    await place.settlement.step()
    assert (place.settled(dust), place.settled(wide)) == (0, 0) and not place.chain.sent
    plain = await place.promise(3, 20 * DOLLARS)
    await place.settlement.step()
    assert place.settled(plain) and not place.settled(wide), "nobody pays for another's lines"
    place.fee_wei = GWEI // 2
    await place.settlement.step()
    assert place.settled(wide) == 10 * DOLLARS, "judged by the fee of the moment"


async def test_a_leaving_payers_claim_waits_for_a_better_fee_while_it_can() -> None:
    """Claimed at once where gas is a small part, at the last call where it still pays, else not."""
    place = Place()
    cheap, dear, lost = [await place.promise(each, units) for each, units in
                         ((1, 8 * DOLLARS), (2, DOLLARS), (3, 1_000))]  # fmt: skip
    place.leave(cheap, 24 * HOUR_S)
    await place.settlement.step()
    assert place.settled(cheap) == 8 * DOLLARS
    for signer in (dear, lost):
        place.leave(signer, LAST_CALL_S + 100)
    place.chain.clock.now += 50
    await place.settlement.step()
    assert place.settled(dear) == 0
    place.chain.clock.now += 50
    await place.settlement.step()
    assert (place.settled(dear), place.settled(lost)) == (DOLLARS, 0)


async def test_who_left_while_the_node_was_away_is_asked_for_channel_by_channel() -> None:
    """A request is logged once: a channel that comes to owe later is asked for too."""
    place = Place()
    place.fee_wei = 1
    await place.settlement.step()
    signer = await place.promise(1, DOLLARS)
    node, at = place.chain.address, place.chain.clock.now + LAST_CALL_S
    place.chain.channels[signer, node] = replace(place.chain.channels[signer, node], close_at=at)
    await place.settlement.step()
    assert place.settled(signer) == DOLLARS


async def test_what_an_ending_adapter_earned_is_claimed_before_its_end() -> None:
    """Young and small, and claimed: after the end it would all be the contents'."""
    place = Place()
    kept, ending = await place.promise(1, DOLLARS), await place.promise(2, DOLLARS, [7])
    await place.settlement.step()
    assert not place.chain.sent
    place.ends[AdapterId(7)] = place.chain.clock.now + LAST_CALL_S
    await place.settlement.step()
    assert (place.settled(ending), place.settled(kept)) == (DOLLARS, 0)


async def test_a_stranger_cannot_make_the_node_pay_for_a_close() -> None:
    """A cooperative close of dust is refused with what to do instead; one that pays is claimed."""
    place = Place()
    wide, plain = await place.promise(1, DOLLARS, range(200)), await place.promise(2, DOLLARS)
    with pytest.raises(InvalidRequest, match="request the close on chain"):
        await place.settlement.claim(wide)
    assert not place.chain.sent
    await place.settlement.claim(plain)
    assert place.settled(plain) == DOLLARS
