"""A docstring that cites a section of a page leads to that section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CITED: Final = re.compile(r'(docs/[\w/.-]+\.md), "([^"]+)"')
# A section is a heading, or a paragraph that begins in bold.
SECTION: Final = re.compile(r"^(?:#+ (.+)|\*\*(.+?)\*\*)", re.MULTILINE)


def _sections(page: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8").replace("`", "")
    return "\n".join(heading or bold for heading, bold in SECTION.findall(text))


def test_every_section_that_the_code_cites_exists() -> None:
    """A section that was renamed must not leave a reader searching for it."""
    cited: set[tuple[str, str]] = set()
    for folder in ("node", "tests", "scripts", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            text = " ".join(path.read_text(encoding="utf-8").replace("#", " ").split())
            cited.update(CITED.findall(text))
    assert len(cited) >= 3
    assert [each for each in sorted(cited) if each[1] not in _sections(each[0])] == []
