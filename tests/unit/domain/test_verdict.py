"""The verdict of an audit: a finding always counts, and an audit of nothing proves nothing."""

from __future__ import annotations

import json

import pytest

from viz.domain.verdict import Verdict, verdict_of


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("missing", [(), ("the receipts 2 to 3",)])
@pytest.mark.parametrize("findings", [(), ("a receipt is not signed",)])
def test_the_verdict_follows_from_findings_first(
    findings: tuple[str, ...], missing: tuple[str, ...], checked: bool
) -> None:
    """A contradiction is not excused by what is missing; success needs a complete check."""
    expected = "reproduced" if checked and not missing else "inconclusive"
    assert verdict_of(findings, missing, checked=checked) == ("different" if findings else expected)


def test_a_report_says_the_verdict_as_a_word() -> None:
    """Programs compare the JSON member with the word, and the exit code follows from it."""
    assert json.dumps({"verdict": Verdict.INCONCLUSIVE}) == '{"verdict": "inconclusive"}'
    assert f"{Verdict.DIFFERENT}" == "different"
