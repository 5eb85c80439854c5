"""What people read of an adapter's end: until when it is sold, why it ended, what follows."""

from __future__ import annotations

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.remote_nodes import offer

from viz.cli.buyer.buyer import _print_offer
from viz.cli.noticed import ended_rows


def test_a_buyer_sees_until_when_a_model_is_sold(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever deposits for it in the notice period knows how long it can be used."""
    _print_offer(offer(3, sold_until_s=1_800_000_000), DEPLOYMENT)
    assert "sold until     2027-01-15 08:00:00 UTC" in capsys.readouterr().out
    _print_offer(offer(3), DEPLOYMENT)
    assert "sold until" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reason", "what"),
    [("work-withdrawn", "was withdrawn"), ("license-ended", "was licensed until")],
)
def test_an_ended_adapter_shows_why_and_what_follows(reason: str, what: str) -> None:
    """`viz adapter show` said only that it is not served here."""
    ended = {
        "contentId": 3,
        "reason": reason,
        "since": 1_800_000_000,
        "endedAt": 1_800_000_060,
        "successorId": 4,
        "successor": "viz-adapter-4",
    }
    assert ended_rows({"ended": ended}) == [
        ("ended", f"2027-01-15 08:01:00 UTC: work 3 {what} 2027-01-15 08:00:00 UTC"),
        ("successor", "viz-adapter-4"),
    ]
    assert ended_rows({}) == []
