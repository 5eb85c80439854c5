"""What is said of an adapter before it is sold, and what keeps it from sale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from viz.domain.card import ReportCard, card_of

CARD = ReportCard(48, 40, 1, 30, 28, 0.0, 13)
MEASURED: dict[str, Any] = {
    "recall": {"asked": 48, "base": 1, "adapter": 40, "examples": {"right": [], "wrong": []}},
    "general": {"asked": 64, "base": 30, "kept": 28},
    "memorisation": {"adapter": {"longest_tokens": 13}},
    "defaultTemperature": 0.0,
}


def test_a_manifest_s_measurements_are_its_card() -> None:
    """A buyer sees what the trainer signed."""
    assert card_of(MEASURED) == CARD


def test_the_creators_own_questions_are_counted_apart() -> None:
    """What a creator asks is another measure than what the trainer's program asks."""
    found = card_of({**MEASURED, "committed": {"asked": 13, "base": 1, "adapter": 9}})
    assert found == replace(CARD, committed_asked=13, committed_right=9, committed_base_right=1)
    assert found.to_json()["committedQuestions"] == {"asked": 13, "right": 9, "baseRight": 1}
    assert CARD.to_json()["committedQuestions"] == {"asked": 0, "right": None, "baseRight": None}


def test_an_older_manifest_has_no_card_and_stays_readable() -> None:
    """What was sold before there were cards is not taken for bad, nor for measured."""
    assert card_of({"heldOut": {"after": {"loss": 0.25}}}) is None
    assert card_of({**MEASURED, "recall": {"asked": "many"}}) is None


def test_where_nothing_was_asked_there_is_no_number() -> None:
    """An empty set's mean is no success."""
    nothing = replace(CARD, asked=0, right=0, base_right=0, longest_tokens=None)
    said = nothing.to_json()
    assert said["unseenWordings"] == {"asked": 0, "right": None, "baseRight": None}
    assert said["longestVerbatimTokens"] is None
    assert len(nothing.shortcomings()) == 1


@pytest.mark.parametrize(
    ("changes", "thresholds", "missed"),
    [
        ({}, (50, 90), []),
        ({"right": 24}, (50, 90), []),
        ({"right": 23}, (50, 90), ["unseen wordings"]),
        ({"general_kept": 26}, (50, 90), ["general questions"]),
        ({"right": 0, "general_kept": 0}, (50, 90), ["unseen wordings", "general questions"]),
        ({"right": 0, "general_kept": 0}, (0, 0), []),
        ({"general_base": 0, "general_kept": 0}, (50, 90), []),
    ],
)
def test_what_is_below_a_threshold_is_said_with_what_to_change(
    changes: dict[str, int], thresholds: tuple[int, int], missed: list[str]
) -> None:
    """An operator who is refused learns by how much and what to do."""
    found = replace(CARD, **changes).shortcomings(*thresholds)
    assert len(found) == len(missed)
    assert all(what in said and "raise" in said for what, said in zip(missed, found, strict=True))
