"""The committed gas table says what every function costs."""

from __future__ import annotations

import json

from benchmarks.gas import FIGURES, GOALS, PAGE, table, unmeasured


def test_every_state_changing_function_has_a_row() -> None:
    """A function added to a contract must be measured too."""
    figures = json.loads(FIGURES.read_text())
    assert unmeasured(figures) == []
    assert set(GOALS) <= set(figures)
    assert unmeasured(["Settlement.claim 1x1", "NodeDirectory.remove, the last"]) != []


def test_the_page_shows_the_committed_figures() -> None:
    """The table that people read is the one that the check compares."""
    assert table(json.loads(FIGURES.read_text())) in PAGE.read_text()
