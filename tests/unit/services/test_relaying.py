"""Strangers cannot make a node spend more gas in an hour than its operator allows."""

from __future__ import annotations

import pytest
from tests.fakes.chain import FakeClock, address_of

from viz.errors import RelayBusy
from viz.services.relaying import HOUR_S, RelayBudget, RelayPolicy


def test_the_hour_is_bounded_in_all_and_for_each_payer() -> None:
    """One payer cannot use up the node's gas, nor can many together; the hour moves on."""
    clock = FakeClock()
    budget = RelayBudget(clock, RelayPolicy(per_hour=3, per_payer_per_hour=2))
    one, two, three = (address_of(number) for number in (1, 2, 3))
    budget.admit(one)
    clock.now += 10
    budget.admit(one)
    with pytest.raises(RelayBusy, match=f"{HOUR_S - 10} s"):
        budget.admit(one)
    budget.admit(two)
    with pytest.raises(RelayBusy, match="3 transactions an hour"):
        budget.admit(three)
    clock.now += HOUR_S - 10
    budget.admit(three)


def test_what_was_never_sent_does_not_count() -> None:
    """Who holds no money cannot use up what others need."""
    budget = RelayBudget(FakeClock(), RelayPolicy(per_hour=1, per_payer_per_hour=1))
    for number in range(5):
        budget.admit(address_of(number))
        budget.give_back(address_of(number))
    budget.admit(address_of(9))
