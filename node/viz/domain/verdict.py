"""Name the outcome of an audit, and derive it from what the audit found and what it lacked."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Verdict(StrEnum):
    """The outcome of an audit; its value is what reports say."""

    REPRODUCED = "reproduced"
    """Everything was checked, and agrees."""
    DIFFERENT = "different"
    """Something disagrees, and nothing excuses it."""
    INCONCLUSIVE = "inconclusive"
    """Nothing is proven: something was missing, or something that differs here may be the cause."""


def verdict_of(findings: Sequence[str], missing: Sequence[str] = (), *, checked: bool) -> Verdict:
    """Return DIFFERENT for any finding; without one, REPRODUCED only if nothing is missing.

    ``checked``: whether there was anything to check. An audit of nothing is inconclusive.
    """
    if findings:
        return Verdict.DIFFERENT
    return Verdict.INCONCLUSIVE if missing or not checked else Verdict.REPRODUCED
