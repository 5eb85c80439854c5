"""Strangers cannot make a node spend more gas in an hour than its operator allows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes.chain import FakeChain, FakeClock, address_of

from viz.domain.ports.transactions import Call, Transaction
from viz.errors import ChainError, FeeTooHigh, RelayBusy
from viz.services.relaying import (
    HOUR_S,
    RELAY_GAS,
    WALLET_GAS,
    RelayBudget,
    RelayPolicy,
)

FIGURES = Path(__file__).parents[3] / "docs" / "gas.json"


def test_the_hour_is_bounded_in_all_and_for_each_payer() -> None:
    """One payer cannot use up the node's gas, nor can many together; the hour moves on."""
    clock = FakeClock()
    budget = RelayBudget(clock, RelayPolicy(per_hour=3, per_payer_per_hour=2))
    one, two, three = (address_of(number) for number in (1, 2, 3))
    budget.admit(one, 1)
    clock.now += 10
    budget.admit(one, 1)
    with pytest.raises(RelayBusy, match=f"{HOUR_S - 10} s"):
        budget.admit(one, 1)
    budget.admit(two, 1)
    with pytest.raises(RelayBusy, match="3 transactions an hour"):
        budget.admit(three, 1)
    clock.now += HOUR_S - 10
    budget.admit(three, 1)


class Chain(FakeChain):
    """A chain that takes any call, and tells how much gas it was allowed."""

    def __init__(self) -> None:
        super().__init__(b"\x11" * 32)
        self.allowed: list[int | None] = []
        self.fails: ChainError | None = None

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        self.allowed.append(max_gas)
        if self.fails:
            raise self.fails
        return await super().submit(
            Call("Settlement", "claim", (b"",)), max_gas=max_gas, urgent=urgent
        )


CLOSE = Call("Settlement", "closeNow")


async def test_gas_is_bounded_for_each_relay_and_within_the_hour() -> None:
    """Few dear relays cost no more than many cheap ones: what counts is the gas that was used."""
    chain, most = Chain(), RELAY_GAS["closeNow"]
    chain.gas_needed = most // 2
    budget = RelayBudget(chain.clock, RelayPolicy(gas_per_hour=2 * most))
    for number in range(3):
        await budget.send(chain, address_of(number), CLOSE)
    with pytest.raises(RelayBusy, match=f"{2 * most} gas an hour"):
        await budget.send(chain, address_of(4), CLOSE)
    assert chain.allowed == [most] * 3
    chain.clock.now += HOUR_S
    await budget.send(chain, address_of(4), CLOSE)


def test_the_ceilings_are_twice_what_was_measured() -> None:
    """A change of the contracts that makes a relay dearer is not refused to honest wallets."""
    measured = json.loads(FIGURES.read_text(encoding="utf-8"))
    new_terms = (
        measured["ContentRegistry.register, first terms set"]
        - measured["ContentRegistry.register, steady"]
    )
    for function, gas, wallet_gas in (
        (
            "openWithAuthorization",
            measured["Settlement.openWithAuthorization, first, signer another key"],
            WALLET_GAS,
        ),
        (
            "topUpWithAuthorization",
            measured["Settlement.topUpWithAuthorization, steady"],
            WALLET_GAS,
        ),
        (
            "registerFor",
            measured["ContentRegistry.registerFor, first signature"] + new_terms,
            WALLET_GAS,
        ),
        ("closeNow", measured["Settlement.closeNow"], 0),
    ):
        assert 0 <= RELAY_GAS[function] - wallet_gas - 2 * gas < 10_000, function


async def test_what_was_never_sent_does_not_count() -> None:
    """Who holds no money cannot use up what others need, nor does a fee that is too high."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(per_hour=1, per_payer_per_hour=1))
    chain.fails = FeeTooHigh("too dear")
    for number in range(5):
        with pytest.raises(FeeTooHigh):
            await budget.send(chain, address_of(number), CLOSE)
    chain.fails = None
    await budget.send(chain, address_of(9), CLOSE)
