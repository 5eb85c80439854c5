"""Amounts and times read the same wherever they are printed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.domain.display import amount, counted, duration, expiry, moment, price
from viz.domain.units import UINT64_MAX


def test_an_amount_has_all_its_decimals_and_its_unit() -> None:
    """Protects the reader from taking units for tokens: no figure stands without its unit."""
    assert amount(2_500_000, DEPLOYMENT) == "2.500000 vUSD"
    assert amount(-1, DEPLOYMENT) == "-0.000001 vUSD"
    assert amount(7, replace(DEPLOYMENT, token_decimals=0)) == "7 vUSD"


@pytest.mark.parametrize(
    ("units", "decimals", "spelled"),
    [
        (2_500_000, 6, "2.5 vUSD"),
        (2_000_000, 6, "2 vUSD"),
        (0, 6, "0 vUSD"),
        (1, 6, "0.000001 vUSD"),
        (100, 0, "100 vUSD"),
    ],
)
def test_a_price_is_the_amount_without_zeros_at_its_end(
    units: int, decimals: int, spelled: str
) -> None:
    """Protects whole numbers: 100 of a token without decimals is not 1."""
    assert price(units, replace(DEPLOYMENT, token_decimals=decimals)) == spelled


def test_a_time_is_a_date_in_utc() -> None:
    """Protects against a bare number of seconds, also where the number is no date."""
    assert moment(1_796_000_000) == "2026-11-30 00:53:20 UTC"
    assert moment(10**18) == f"{10**18} s after 1970"


def test_what_lasts_for_ever_expires_never() -> None:
    """Protects the reader of a perpetual license, for which the chain has its largest number."""
    assert expiry(UINT64_MAX) == "never"
    assert expiry(1_796_000_000) == moment(1_796_000_000)


def test_one_of_something_is_not_several() -> None:
    """Protects against "1 chunks", wherever a count is printed."""
    assert [counted(each, "chunk") for each in (0, 1, 2)] == ["0 chunks", "1 chunk", "2 chunks"]
    assert counted(1, "line is", "lines are") == "1 line is"
    assert counted(3, "line is", "lines are") == "3 lines are"
    assert (duration(3_600), duration(172_800), duration(1)) == ("1 hour", "2 days", "1 second")
