"""The page on the contracts names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SECTIONS = ("## Where each attack is tried", "## Hostile parts", "## What must work")


def test_every_test_that_the_page_names_exists() -> None:
    """A renamed or deleted test must not leave an attack that seems to be tried."""
    sources = [*ROOT.glob("contracts/test/**/*.sol"), *ROOT.glob("tests/**/test_*.py")]
    text = "\n".join(path.read_text() for path in sources)
    names = re.findall(r"(?:function|def) (test\w+)", text)
    paths = "\n".join(str(path) for path in sources)
    page = (ROOT / "docs" / "contracts.md").read_text()
    rows = [
        line
        for section in SECTIONS
        for line in page.split(section)[1].split("\n## ")[0].splitlines()
        if line.startswith("| ") and "|---" not in line
    ]
    named = [
        (row, name) for row in rows[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[-2])
    ]
    assert len(named) > 100
    missing = []
    for row, name in named:
        is_path = "." in name or "/" in name
        if not (name in paths if is_path else any(name in test for test in names)):
            missing.append((row[:60], name))
    assert missing == []
