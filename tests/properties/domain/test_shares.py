"""Money is divided the same whatever the order and number of divisions, and never created."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from viz.domain.pricing import Price
from viz.domain.shares import (
    Share,
    check_shares,
    distribute,
    share_words,
    shares_from_words,
    split_revenue,
)
from viz.domain.units import BPS, MILLION, ContentId

amounts = st.lists(st.integers(0, 10**12), max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Share, ...]:
    count = draw(st.integers(1, 12))
    cuts = draw(
        st.lists(st.integers(1, BPS - 1), min_size=count - 1, max_size=count - 1, unique=True)
    )
    edges = [0, *sorted(cuts), BPS]
    ids = draw(st.lists(st.integers(1, 2**240 - 1), min_size=count, max_size=count, unique=True))
    parts = [later - earlier for earlier, later in pairwise(edges)]
    return tuple(Share(ContentId(i), bps) for i, bps in zip(sorted(ids), parts, strict=True))


@given(amounts, st.integers(0, BPS), st.data())
def test_splits_do_not_depend_on_how_revenue_arrives(
    pieces: list[int], royalty_bps: int, data: st.DataObject
) -> None:
    """However claims cut the revenue, each party gets its floor; at most two units wait."""
    trainer_bps = data.draw(st.integers(0, BPS - royalty_bps))
    contents = trainer = node = before = 0
    for amount in pieces:
        part = split_revenue(before, amount, royalty_bps=royalty_bps, trainer_bps=trainer_bps)
        contents += part.to_contents_units
        trainer += part.to_trainer_units
        node += part.to_node_units
        before += amount
    assert contents == before * royalty_bps // BPS
    assert trainer == before * trainer_bps // BPS
    assert 0 <= before - contents - trainer - node <= 2


@given(tables(), amounts)
def test_distributions_do_not_depend_on_their_frequency(
    table: tuple[Share, ...], accruals: list[int]
) -> None:
    """A content receives its floor of everything, and dust is less than a unit a content."""
    received = dict.fromkeys((share.content_id for share in table), 0)
    divided = 0
    for accrued in accruals:
        for content_id, units in distribute(divided, accrued, table):
            assert units >= 0
            received[content_id] += units
        divided += accrued
    assert all(received[s.content_id] == divided * s.bps // BPS for s in table)
    assert 0 <= divided - sum(received.values()) < len(table)


@given(tables())
def test_tables_survive_their_words(table: tuple[Share, ...]) -> None:
    """What an event carries is the table that was registered."""
    assert check_shares(table) == shares_from_words(share_words(table)) == table


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 2**32))
def test_an_amount_is_rounded_up_once(prompt: int, completion: int, low: int, high: int) -> None:
    """Never below the exact price, never a whole unit above it, and it buys what it bills."""
    price = Price(low, high)
    exact = prompt * low + completion * high
    units = price.amount_units(prompt, completion)
    assert exact <= units * MILLION < exact + MILLION
    bought = price.completion_tokens_for(units, prompt)
    assert bought is None or bought >= completion
