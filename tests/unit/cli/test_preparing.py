"""The one-time preparation of the base model as it is shown: one bar, or a line now and then."""

from __future__ import annotations

import io
import itertools

from rich.console import Console

from viz.cli.operator.preparing import preparing


def shown(parts: list[float], *, terminal: bool) -> str:
    """Return what is printed when two seconds pass between the reports."""
    screen, ticks = io.StringIO(), itertools.count(0.0, 2.0)
    console = Console(file=screen, force_terminal=terminal, width=100)
    with preparing(console, clock=lambda: next(ticks)) as report:
        for part in parts:
            report(part)
    return screen.getvalue()


def test_a_terminal_gets_one_bar_that_says_once() -> None:
    """Minutes of silence look like a hang; the bar says that the wait is not for every start."""
    screen = shown([0.0, 0.5, 1.0], terminal=True)
    assert "once" in screen and "100%" in screen


def test_without_a_terminal_a_line_is_printed_every_few_seconds() -> None:
    """A log gets the start, the end and some lines between, not one for each of 500 tensors."""
    lines = shown([0.0, *(n / 100 for n in range(100)), 1.0], terminal=False).splitlines()
    assert 3 < len(lines) < 50 and all("once" in line for line in lines), lines
    assert lines[0].endswith(" 0%") and lines[-1].endswith("100%")


def test_nothing_is_shown_if_nothing_is_prepared() -> None:
    """Every later start is silent about it."""
    assert shown([], terminal=False) == "" and "once" not in shown([], terminal=True)
