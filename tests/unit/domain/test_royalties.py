"""A royalty table that AdapterRegistry would refuse is refused before, with the rates that do."""

from __future__ import annotations

import pytest

from viz.domain.shares import check_rates, require_royalties
from viz.domain.units import ContentId
from viz.errors import InvalidRequest, LicenseError

ONE, TWO = ContentId(1), ContentId(2)


@pytest.mark.parametrize(
    ("royalty_bps", "share_bps"), [(800, 10_000), (1_600, 5_000), (10_000, 800), (3_000, 2_667)]
)
def test_a_work_that_gets_its_minimum_is_content(royalty_bps: int, share_bps: int) -> None:
    """Protects against refusing what the contract accepts: its own rule, without rounding."""
    rest = () if share_bps == 10_000 else ((TWO, 10_000 - share_bps),)
    minimums = {ONE: 800, **dict.fromkeys([TWO] if rest else [], 0)}
    require_royalties(royalty_bps, 0, ((ONE, share_bps), *rest), minimums)
    with pytest.raises(LicenseError, match="work 1 must get at least 8 %"):
        require_royalties(royalty_bps - 1, 0, ((ONE, share_bps), *rest), minimums)


def test_the_refusal_names_rates_that_are_enough() -> None:
    """Protects the trainer from trying rates one after the other, each after a training."""
    table, minimums = ((ONE, 9_000), (TWO, 1_000)), {ONE: 100, TWO: 700}
    with pytest.raises(LicenseError, match=r"would get 3 %.*--royalty-bps .* 7000$") as caught:
        require_royalties(3_000, 1_000, table, minimums)
    assert caught.value.extensions == {"contentId": 2, "leastRoyaltyBps": 7_000}
    require_royalties(7_000, 1_000, table, minimums)
    with pytest.raises(LicenseError, match=r"7000, and --trainer-bps .* 3000$"):
        require_royalties(3_000, 4_000, table, minimums)
    with pytest.raises(LicenseError, match=r"no royalty is enough .* fewer"):
        require_royalties(3_000, 0, table, {ONE: 100, TWO: 1_001})


def test_the_table_is_of_the_works_that_are_trained_on() -> None:
    """Protects a creator whose work is learned and left out of the shares."""
    with pytest.raises(InvalidRequest, match="work 2 has no row"):
        require_royalties(3_000, 0, ((ONE, 10_000),), {ONE: 0, TWO: 0})
    with pytest.raises(InvalidRequest, match="name work 2, which is not trained on"):
        require_royalties(3_000, 0, ((ONE, 5_000), (TWO, 5_000)), {ONE: 0})


def test_nobody_shares_out_more_than_the_revenue() -> None:
    """Protects the node's own part: the contract refuses more than the whole."""
    check_rates(9_000, 1_000)
    with pytest.raises(InvalidRequest, match="lower one"):
        check_rates(9_000, 1_001)
