"""A work's statement from events: parts that sum, owners of the moment, contradictions noticed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.chain import address_of

from viz.domain.ports.transactions import Event
from viz.domain.shares import split_revenue
from viz.domain.statement import (
    EARNED,
    PAID,
    AdapterRates,
    require_undistributed,
    sum_of_kind,
    work_history,
)
from viz.domain.units import ZERO_HASH, AdapterId, ContentId
from viz.errors import ChainUnreachable

WORK, ADAPTER = ContentId(3), AdapterId(1)
TRAINER, NODE, OWNER, BUYER = (address_of(each) for each in (1, 2, 3, 4))
RATES = AdapterRates(ADAPTER, TRAINER, 3_000, 1_000, 3_333)


def event(number: int, name: str, **args: Any) -> Event:
    return Event("Settlement", name, args, number, ZERO_HASH, ZERO_HASH, number)


def earned(number: int, amount: int, works: int) -> Event:
    return event(
        number, "Earned", adapterId=1, node=NODE, amount=amount, toContents=works, trainer=TRAINER
    )


@given(st.lists(st.tuples(st.integers(1, 10**9), st.booleans()), max_size=30))
def test_parts_that_were_earned_are_the_parts_that_are_paid(steps: list[tuple[int, bool]]) -> None:
    """Whatever the order of claims and distributions, not a unit more or less than the floors."""
    events, gross, works, divided = [event(0, "Transfer", to=OWNER)], 0, 0, 0
    for amount, pays in steps:
        part = split_revenue(gross, amount, royalty_bps=3_000, trainer_bps=1_000).to_contents_units
        events.append(earned(len(events), amount, part))
        gross, works = gross + amount, works + part
        if pays:
            events.append(event(len(events), "Distributed", adapterId=1, accrued=works - divided))
            divided = works
    history = work_history(WORK, [RATES], events)
    assert sum_of_kind(history.lines, EARNED) == works * 3_333 // 10_000
    assert sum_of_kind(history.lines, PAID) == divided * 3_333 // 10_000
    assert history.undistributed_units == {ADAPTER: works - divided}


def test_a_payment_names_the_owner_of_its_moment() -> None:
    """A sale between two distributions moves the second one only."""
    events = [
        event(1, "Transfer", to=OWNER),
        earned(2, 1_000, 300),
        event(3, "Distributed", adapterId=1, accrued=300),
        event(4, "Transfer", to=BUYER),
        earned(5, 1_000, 1_000),  # after the adapter's retirement
        event(6, "TransferFailed", account=BUYER, amount=333),
        event(7, "Distributed", adapterId=1, accrued=1_000),
    ]
    paid = [line for line in work_history(WORK, [RATES], events).lines if line.kind == PAID]
    assert [(line.account, line.units, line.credited) for line in paid] == [
        (OWNER, 99, False),
        (BUYER, 334, True),
    ]


def test_each_line_has_the_rate_that_gave_its_sum() -> None:
    """After retirement the works get all: a line with the agreed rate would belie its money."""
    events = [
        event(1, "Transfer", to=OWNER),
        earned(2, 1_000, 300),
        event(3, "Distributed", adapterId=1, accrued=300),
        earned(4, 10, 3),
        earned(5, 1_000, 1_000),  # after the adapter's retirement
        event(6, "Distributed", adapterId=1, accrued=1_003),
        earned(7, 1, 1),  # by rounding, the agreed rate could give this one too
        event(8, "Distributed", adapterId=1, accrued=1),
    ]
    lines = work_history(WORK, [RATES], events).lines
    assert [(line.kind, line.royalty_bps) for line in lines] == [
        (EARNED, 3_000),
        (PAID, 3_000),
        (EARNED, 3_000),
        (EARNED, 10_000),
        (PAID, 0),  # earned at both rates
        (EARNED, 10_000),
        (PAID, 10_000),
    ]


def test_events_that_contradict_each_other_give_no_statement() -> None:
    """Protects a creator from an endpoint that leaves out or invents what an adapter earned."""
    whole = [earned(1, 1_000, 300), event(2, "Distributed", adapterId=1, accrued=300)]
    for wrong in (whole[1:], [earned(1, 1_000, 299)], [*whole, whole[1]]):
        with pytest.raises(ChainUnreachable, match="contradicts itself"):
            work_history(WORK, [RATES], wrong)
    history = work_history(WORK, [RATES], whole[:1])
    require_undistributed(history, {ADAPTER: 300})
    with pytest.raises(ChainUnreachable, match="add up to 300"):
        require_undistributed(history, {ADAPTER: 301})
