"""A claim that fails on chain is made again, and does not burn gas at every look."""

from __future__ import annotations

from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.claim import SignedVoucher
from viz.domain.eip712 import public_address, sign_compact
from viz.domain.ledger import ChannelRecord, Line
from viz.domain.ports import Call, ChannelState, Outcome, Transaction
from viz.domain.units import BASE_MODEL, ZERO_HASH, Hash32
from viz.domain.usage import UsageLine
from viz.services.settlement import HOLD_AFTER_FAILURE_S, ClaimPolicy, Settlement

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


async def test_a_failed_claim_is_put_off_and_made_again() -> None:
    """Rows stay frozen, gas is spent once in a while, and the operator can insist."""
    chain, store = Failing(b"\x11" * 32), MemoryStore()
    signer, node = public_address(KEY), chain.address
    chain.channels[signer, node] = ChannelState(signer, node, address_of(9), 100, 0, 0)
    row = SignedVoucher(0, ZERO_HASH, (UsageLine(BASE_MODEL, 60),), b"")
    signature = sign_compact(KEY, chain.domain.digest(row.voucher(node)))
    await store.commit("voucher", ChannelRecord(signer, 0, {BASE_MODEL: Line(0, 60)}, signature))
    settlement = Settlement(chain, chain, store, chain.clock, ClaimPolicy(1, 1))

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
