"""Prints what the histories reached: after `make fuzz`, and with -v (-q is the default)."""

from __future__ import annotations

import pytest
from hypothesis import settings
from tests.properties.settlement.coverage import TALLY


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table where histories ran."""
    long_run = settings.get_current_profile_name() == "fuzz"
    if TALLY.histories and (long_run or config.option.verbose >= 0):
        terminalreporter.section("what the histories reached")
        for line in TALLY.table():
            terminalreporter.line(line)
