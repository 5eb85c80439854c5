"""A claim that fails on chain is made again, and does not burn gas at every look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import public_address, sign_compact
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import BASE_MODEL, ZERO_HASH, Address, Hash32
from viz.domain.usage import UsageLine
from viz.errors import FeeTooHigh
from viz.services.payments.channel_events import ChannelEvents
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService
from viz.services.settlement.claim_policy import LAST_CALL_S
from viz.services.settlement.claim_sender import HOLD_AFTER_FAILURE_S

KEY = b"\x33" * 32


class Failing(FakeChain):
    """A chain on which what is sent is mined and fails, while ``failing``."""

    failing = True
    tried = 0

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        self.tried += 1
        if self.failing:
            return Transaction(Outcome.FAILED, Hash32(b"\7" * 32), 1, 100_000, "out of gas")
        return await super().submit(call, max_gas=max_gas, urgent=urgent)


def claim_service(chain: FakeChain, store: MemoryStore) -> ClaimService:
    """Return a service that claims whatever there is, at once."""
    return ClaimService(chain, chain, store, chain.clock, ClaimPolicy(1, 1), events=ChannelEvents())


async def promise(store: MemoryStore, chain: FakeChain, key: bytes) -> Address:
    """Open a channel with 100 units of which 60 are signed for; return its signer."""
    signer, node = public_address(key), chain.address
    chain.channels[signer, node] = ChannelState(signer, node, address_of(9), 100, 0, 0)
    row = SignedVoucher(0, ZERO_HASH, (UsageLine(BASE_MODEL, 60),), b"")
    signature = sign_compact(key, chain.domain.digest(row.voucher(node)))
    await store.commit(
        "voucher", ChannelRecord(signer, 0, {BASE_MODEL: ChannelLineRecord(0, 60)}, signature)
    )
    return signer


async def test_a_claim_waits_for_a_bearable_fee_and_a_leaver_does_not() -> None:
    """Above the operator's bound rows stay frozen, none is lost; near a withdrawal it is paid."""
    chain, store = FakeChain(b"\x11" * 32), MemoryStore()
    signer = await promise(store, chain, KEY)
    settlement = claim_service(chain, store)
    chain.too_dear = True
    settlement.close_requested(signer)
    key = signer, chain.address
    for close_at in (0, chain.clock.now + LAST_CALL_S + 1):
        chain.channels[key] = replace(chain.channels[key], close_at=close_at)
        with pytest.raises(FeeTooHigh):
            await settlement.step()
    assert len(await store.frozen()) == 1 and not chain.sent
    chain.clock.now += 1
    assert (await settlement.step()).settled == 1
    assert chain.channels[key].settled_units == 60


class Stuck(FakeChain):
    """A chain with a claim under way whose fee no block takes; tells what was made of it."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.raised: list[bool] = []

    async def recover(self, *, urgent: bool = False) -> Sequence[Transaction]:
        self.raised.append(urgent)
        return (Transaction(Outcome.PENDING, Hash32(b"\7" * 32), what="Settlement.claim"),)


async def test_a_stuck_claim_is_raised_further_where_it_would_be_lost() -> None:
    """The usual bound holds for a claim under way until its payer may soon withdraw."""
    chain, store = Stuck(b"\x11" * 32), MemoryStore()
    signer = await promise(store, chain, KEY)
    assert await store.freeze(signer, now_s=1)
    settlement = claim_service(chain, store)
    key = signer, chain.address
    chain.channels[key] = replace(chain.channels[key], close_at=chain.clock.now + LAST_CALL_S + 1)
    await settlement.step()
    await settlement.step()
    chain.clock.now += 1
    await settlement.step()
    await settlement.step()
    assert chain.raised == [False, False, False, True]


async def test_a_failed_claim_is_put_off_and_made_again() -> None:
    """Rows stay frozen, gas is spent once in a while, and the operator can insist."""
    chain, store = Failing(b"\x11" * 32), MemoryStore()
    signer, node = await promise(store, chain, KEY), chain.address
    settlement = claim_service(chain, store)

    (failed,) = (await settlement.step()).transactions
    assert failed.outcome is Outcome.FAILED and len(await store.frozen()) == 1
    for again in (settlement.step(), settlement.claim(signer)):
        assert (await again).transactions == ()
    await settlement.step(force=True)
    assert chain.tried == 2
    chain.failing = False
    chain.clock.now += HOLD_AFTER_FAILURE_S
    assert (await settlement.step()).settled == 1
    assert chain.channels[signer, node].settled_units == 60
