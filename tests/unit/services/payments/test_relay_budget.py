"""Strangers cannot make a node spend more gas in an hour than its operator allows."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from tests.fakes.chain import FakeChain, FakeClock, address_of

from viz.api.problems import problem
from viz.backends import registration_policy
from viz.domain.license import Terms
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.typed_data import Register
from viz.domain.units import BPS, Hash32
from viz.errors import ChainError, FeeTooHigh, InvalidRequest, RelayBusy, RelayRefused
from viz.services.licensing.creator_relay import CreatorRelay
from viz.services.payments.relay_budget import (
    AT_ONCE,
    COST_GAS,
    FAILED_BPS,
    HOUR_S,
    RELAY_GAS,
    RELAY_VALID_S,
    WALLET_GAS,
    Earner,
    RelayBudget,
    RelayPolicy,
    require_time,
)
from viz.settings.config import Config, RelayConfig

FIGURES = Path(__file__).parents[4] / "docs" / "gas.json"


def test_the_hour_is_bounded_in_all_and_for_each_payer() -> None:
    """One payer cannot use up the node's gas, nor can many together; the hour moves on."""
    clock = FakeClock()
    budget = RelayBudget(clock, RelayPolicy(per_hour=3, per_payer_per_hour=2))
    one, two, three = (address_of(number) for number in (1, 2, 3))
    budget.admit(one, 1)
    clock.now += 10
    budget.admit(one, 1)
    with pytest.raises(RelayBusy, match=f"{HOUR_S - 10} s") as refused:
        budget.admit(one, 1)
    assert problem(refused.value, "an id").headers["Retry-After"] == str(HOUR_S - 10)
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
        self.spares = ""
        self.outcome = Outcome.MINED
        self.found = Outcome.PENDING
        self.gate = asyncio.Event()
        self.gate.set()

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        self.allowed.append(max_gas)
        await self.gate.wait()
        if self.fails and call.function != self.spares:
            raise self.fails
        sent = await super().submit(
            Call("Settlement", "claim", (b"",)), max_gas=max_gas, urgent=urgent
        )
        return replace(sent, outcome=self.outcome)

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        return Transaction(self.found, transaction_hash)


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


FIRST_NONCE_GAS = 17_100


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
        *(
            # The owner may never have signed before: its nonce's slot is empty then.
            (each, measured[f"ContentRegistry.{each}{which}"] + FIRST_NONCE_GAS, WALLET_GAS)
            for each, which in (
                ("setTermsFor", ", new set"),
                ("approveTrainerFor", ", first"),
                ("withdrawFor", ""),
            )
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


PAYER, SIGNER = address_of(0x0A), address_of(0x0B)


async def test_a_payer_has_one_transaction_under_way() -> None:
    """Ten at once could all spend the same coins; nine would revert at the node's cost."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(), patience_s=0)
    chain.gate.clear()
    first = asyncio.create_task(budget.send(chain, PAYER, CLOSE))
    await asyncio.sleep(0)
    for _ in range(9):
        with pytest.raises(RelayBusy, match="under way"):
            await budget.send(chain, PAYER, CLOSE)
    other = asyncio.create_task(budget.send(chain, SIGNER, CLOSE))
    await asyncio.sleep(0)
    chain.gate.set()
    await asyncio.gather(first, other)
    await budget.send(chain, PAYER, CLOSE)
    assert len(chain.allowed) == 3


async def test_who_names_a_payer_only_holds_it_up_for_a_moment() -> None:
    """A refused transaction in somebody's name is waited for: their own one follows."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy())
    chain.gate.clear()
    chain.fails, chain.spares = FeeTooHigh("no"), CLOSE.function
    forgery = Call("Settlement", "openWithAuthorization")
    forged = asyncio.create_task(budget.send(chain, PAYER, forgery))
    await asyncio.sleep(0)
    own = asyncio.create_task(budget.send(chain, PAYER, CLOSE))
    await asyncio.sleep(0)
    chain.gate.set()
    with pytest.raises(FeeTooHigh):
        await forged
    await own


@pytest.mark.parametrize("outcome", [Outcome.PENDING, Outcome.UNKNOWN])
async def test_a_transaction_without_an_end_holds_its_payer(outcome: Outcome) -> None:
    """Coins that may still be spent by the first are not spent by a second before its end."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy())
    chain.outcome, chain.found = outcome, outcome
    await budget.send(chain, PAYER, CLOSE)
    with pytest.raises(RelayBusy, match="under way"):
        await budget.send(chain, PAYER, CLOSE)
    chain.found = chain.outcome = Outcome.MINED
    await budget.send(chain, PAYER, CLOSE)


async def test_who_made_one_revert_is_not_relayed_for_an_hour() -> None:
    """A call that was good when simulated and bad when mined cost the node its gas."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy())
    chain.outcome = Outcome.FAILED
    await budget.send(chain, PAYER, CLOSE)
    chain.outcome = Outcome.MINED
    with pytest.raises(RelayBusy, match="failed in its block"):
        await budget.send(chain, PAYER, CLOSE)
    await budget.send(chain, SIGNER, CLOSE)
    chain.clock.now += HOUR_S
    await budget.send(chain, PAYER, CLOSE)


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_strangers_let_fail_is_bounded_over_all_of_them(at_once: bool) -> None:
    """Fresh payers cost nothing: a bound for each of them alone would be none."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(gas_per_hour=80_000_000), patience_s=0)
    chain.outcome, chain.gas_needed = Outcome.FAILED, 100_000
    most = 80_000_000 * FAILED_BPS // BPS // chain.gas_needed
    payers = [address_of(number) for number in range(1_000, 1_000 + 2 * most)]
    if at_once:
        await asyncio.gather(
            *(budget.send(chain, each, CLOSE) for each in payers), return_exceptions=True
        )
        assert len(chain.allowed) <= most + AT_ONCE
    for each in payers:
        with suppress(RelayBusy):
            await budget.send(chain, each, CLOSE)
    assert len(chain.allowed) <= most + AT_ONCE
    with pytest.raises(RelayBusy, match="that failed"):
        await budget.send(chain, SIGNER, CLOSE)
    chain.outcome = Outcome.MINED
    await budget.send(chain, SIGNER, CLOSE, earner=Earner(SIGNER, 1))
    chain.clock.now += HOUR_S
    await budget.send(chain, PAYER, CLOSE)


async def test_one_that_fails_after_its_relay_returned_counts_as_failed() -> None:
    """Protects the bound from transactions that a block takes late."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(gas_per_hour=1_000_000))
    chain.outcome = chain.found = Outcome.PENDING
    await budget.send(chain, PAYER, CLOSE)
    chain.found = chain.outcome = Outcome.FAILED
    with pytest.raises(RelayBusy, match="failed in its block"):
        await budget.send(chain, PAYER, CLOSE, earner=Earner(PAYER, 1))
    with pytest.raises(RelayBusy, match="strangers that failed"):
        await budget.send(chain, SIGNER, CLOSE)


async def test_contract_wallets_have_a_small_share_of_their_own() -> None:
    """Their code is the stranger's: it can be good when simulated and burn all gas when mined."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(gas_per_hour=80_000_000))
    chain.gas_needed = 250_000
    opening = Call("Settlement", "openWithAuthorization")
    for number in range(8):
        await budget.send(chain, address_of(number), opening, wallet=True)
    with pytest.raises(RelayBusy, match="contract wallets"):
        await budget.send(chain, SIGNER, opening, wallet=True)
    await budget.send(chain, SIGNER, opening)
    await budget.send(chain, SIGNER, opening, wallet=True, earner=Earner(SIGNER, 1))


def test_a_signature_that_ends_soon_is_not_relayed() -> None:
    """It is good in the simulation, and void in the block that takes it."""
    require_time(1_000 + RELAY_VALID_S, 1_000, "the registration")
    for left_s in (RELAY_VALID_S - 1, 2, 0, -5):
        with pytest.raises(InvalidRequest, match=f"{RELAY_VALID_S} s at least"):
            require_time(1_000 + left_s, 1_000, "the registration")


async def test_the_hour_is_bounded_in_coin() -> None:
    """The same gas costs a thousand times more on another day: what is bounded is what is paid."""
    chain = Chain()
    chain.gas_needed = 50_000
    price = 10**9

    async def fee_wei() -> int:
        return price

    policy = RelayPolicy(wei_per_hour=RELAY_GAS["closeNow"] * 10**9)
    budget = RelayBudget(chain.clock, policy, fee_wei)
    await budget.send(chain, address_of(1), CLOSE)
    with pytest.raises(RelayBusy, match="wei an hour"):
        await budget.send(chain, address_of(2), CLOSE)
    price = 10**8
    for number in range(2, 7):
        await budget.send(chain, address_of(number), CLOSE)
    with pytest.raises(RelayBusy, match="wei an hour"):
        for number in range(7, 20):
            await budget.send(chain, address_of(number), CLOSE)


def test_a_part_of_every_bound_is_kept_for_channels_that_pay() -> None:
    """Strangers who use up the hour do not keep buyers with money in from topping up."""
    policies = (
        RelayPolicy(per_hour=4, reserve_bps=2_500),
        RelayPolicy(gas_per_hour=40, reserve_bps=2_500),
        RelayPolicy(wei_per_hour=40, reserve_bps=2_500),
    )
    for policy in policies:
        budget = RelayBudget(FakeClock(), policy)
        for number in range(3):
            budget.admit(address_of(number), 10, fee_wei=1)
        with pytest.raises(RelayBusy):
            budget.admit(address_of(9), 10, fee_wei=1)
        budget.admit(address_of(9), 10, fee_wei=1, paying=True)
        with pytest.raises(RelayBusy):
            budget.admit(address_of(8), 10, fee_wei=1, paying=True)


async def test_a_relay_from_the_reserve_is_paid_for_by_new_earnings() -> None:
    """Channels that paid a minimum once have one top-up each of what is kept, not 600 in all."""
    chain = Chain()
    chain.gas_needed = 85_000

    async def fee_wei() -> int:
        return 10**9

    cost = COST_GAS["topUpWithAuthorization"] * 3
    policy = RelayPolicy(per_hour=8, reserve_bps=5_000, coin_units=3 * 10**9)
    budget = RelayBudget(chain.clock, policy, fee_wei)
    top_up = Call("Settlement", "topUpWithAuthorization")
    payers = [address_of(number) for number in range(100, 121)]
    for number in range(4):
        await budget.send(chain, address_of(number), top_up)
    assert await budget.cost_units(top_up.function) == cost

    async def relayed(earned_units: int, least_units: int = 1) -> int:
        sent = 0
        for payer in payers * 3:
            with suppress(RelayBusy):
                earner = Earner(payer, earned_units, least_units)
                await budget.send(chain, payer, top_up, earner=earner)
                sent += 1
        return sent

    assert await relayed(cost - 1) == 0
    assert await relayed(cost, least_units=cost + 1) == 0
    payers = payers[:3]
    assert await relayed(cost) == 3
    assert await relayed(2 * cost - 1) == 0
    # A close is paid for out of the same earnings.
    close = 2 * cost + COST_GAS["closeNow"] * 3
    assert await budget.close(chain, payers[0], payers[0], close - cost - 1, CLOSE) is None
    assert await budget.close(chain, payers[0], payers[0], close - cost, CLOSE) is not None


async def test_a_relay_that_was_not_sent_uses_up_no_earnings() -> None:
    """A node that could not send it owes the channel the relay still."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(per_hour=2, reserve_bps=BPS))
    chain.fails = FeeTooHigh("too dear")
    with pytest.raises(FeeTooHigh):
        await budget.send(chain, PAYER, CLOSE, earner=Earner(SIGNER, 1))
    chain.fails = None
    await budget.send(chain, PAYER, CLOSE, earner=Earner(SIGNER, 1))
    with pytest.raises(RelayBusy):
        await budget.send(chain, PAYER, CLOSE, earner=Earner(SIGNER, 1))


def test_what_a_relay_costs_is_what_is_measured() -> None:
    """The least deposit and the reserve are weighed by it."""
    figures = json.loads(FIGURES.read_text())
    opening = figures["Settlement.openWithAuthorization, first, signer another key"]
    for function, measured in (
        ("openWithAuthorization", opening),
        ("topUpWithAuthorization", figures["Settlement.topUpWithAuthorization, steady"]),
        ("closeNow", opening + figures["Settlement.closeNow"]),
    ):
        assert measured <= COST_GAS[function] <= RELAY_GAS[function] + opening
        assert COST_GAS[function] <= 1.1 * measured


async def test_a_close_is_sent_once_for_what_its_channel_earned() -> None:
    """Capital that goes in and out again moves at its owner's cost, not at the node's."""
    chain = Chain()

    async def fee_wei() -> int:
        return 10**9

    cost = COST_GAS["closeNow"] * 3  # at 1 gwei, and 3 units for a thousand-millionth of a coin
    budget = RelayBudget(chain.clock, RelayPolicy(coin_units=3 * 10**9), fee_wei)
    for earned, sent in (
        (0, False), (cost - 1, False), (cost, True), (cost, False), (2 * cost - 1, False),
        (2 * cost, True),
    ):  # fmt: skip
        done = await budget.close(chain, PAYER, SIGNER, earned, CLOSE)
        assert (earned, done is not None) == (earned, sent)
    free = RelayBudget(chain.clock, RelayPolicy())
    assert await free.close(chain, PAYER, SIGNER, 0, CLOSE) is None
    assert await free.close(chain, PAYER, SIGNER, 1, CLOSE) is not None


async def test_a_close_that_cannot_be_sent_is_no_error() -> None:
    """The payer has the signature: a bound, a fee or the chain only keep the node from sending."""
    chain = Chain()
    budget = RelayBudget(chain.clock, RelayPolicy(per_payer_per_hour=1))
    chain.fails = FeeTooHigh("too dear")
    assert await budget.close(chain, PAYER, SIGNER, 10, CLOSE) is None
    chain.fails = None
    assert await budget.close(chain, PAYER, SIGNER, 10, CLOSE) is not None
    assert await budget.close(chain, PAYER, SIGNER, 20, CLOSE) is None


async def test_registrations_are_relayed_where_the_operator_says_so() -> None:
    """Fresh keys are free: on a chain whose coin costs money nobody is registered by default."""
    chain = Chain()
    desk = CreatorRelay(chain, chain, chain.clock, relays=None)
    terms = Terms(0, 0, 0, 0, 0, 7, approval_required=False)
    work = Register(PAYER, Hash32(bytes(32)), Hash32(bytes(32)), terms, 0, 0)
    with pytest.raises(RelayRefused, match=r"relay\.registrations"):
        await desk.relay_registration(work, b"")
    assert not chain.allowed
    wanted: bool | Literal["auto"]
    for wanted, development, relayed in (
        ("auto", True, True),
        ("auto", False, False),
        (True, False, True),
        (False, True, False),
    ):
        config = Config(relay=RelayConfig(registrations=wanted))
        assert (registration_policy(config, development=development) is not None) == relayed
