"""The pages on attacks name tests that exist, and the code cites attacks that are listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
THREATS: Final = (ROOT / "docs" / "threats.md").read_text()
CONTRACTS: Final = (ROOT / "docs" / "contracts.md").read_text()
SECTIONS: Final = ("## Hostile parts", "## What must work")


def _rows(text: str) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith("| ") and "|---" not in line]
    return [row for row in found if not row.startswith(("| |", "| part", "| what"))]


def test_every_test_that_the_pages_name_exists() -> None:
    """A renamed or deleted test must not leave an attack that seems to be tried."""
    sources = [*ROOT.glob("contracts/test/**/*.sol"), *ROOT.glob("tests/**/test_*.py")]
    text = "\n".join(path.read_text() for path in sources)
    names = re.findall(r"(?:function|def) (test\w+)", text)
    paths = "\n".join(str(path) for path in sources)
    rows = _rows(THREATS)
    for section in SECTIONS:
        rows += _rows(CONTRACTS.split(section)[1].split("\n## ")[0])
    named = [(row, name) for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[-2])]
    assert len(named) > 130
    missing = []
    for row, name in named:
        is_path = "." in name or "/" in name
        if not (name in paths if is_path else any(name in test for test in names)):
            missing.append((row[:60], name))
    assert missing == []


def test_a_test_is_in_the_file_that_is_named_before_it() -> None:
    """Who follows a row to a file finds there what the row names."""
    sources = [*ROOT.glob("contracts/test/**/*.sol"), *ROOT.glob("tests/**/test_*.py")]
    texts = {str(path): path.read_text() for path in sources}
    elsewhere = []
    for row in re.findall(r"^\| \d+[ab]? \|.*$", THREATS, re.MULTILINE):
        files: list[str] = []
        for name in re.findall(r"`([^`]+)`", row.split("|")[-2]):
            if "." in name or "/" in name:
                files = [text for path, text in texts.items() if name in path]
            elif name.startswith("test_") and files:
                if any(re.search(rf"(function|def) \w*{name}", text) for text in files):
                    continue
                elsewhere.append((row[:60], name))
    assert elsewhere == []


def test_a_short_name_means_its_file() -> None:
    """Who follows ``S `Threat41` `` finds it in that file, and ``Threat4`` is another one."""
    files = dict(re.findall(r"`([RSHC])` is\s+`([^`]+)`", THREATS)) | dict(
        re.findall(r"`([RSHC])`\s+`([^`]+)`", THREATS.split("## Channels")[0])
    )
    assert set(files) == set("RSHC")
    contracts = {short: (ROOT / path).read_text() for short, path in files.items()}
    wrong = []
    for row in re.findall(r"^\| \d+[ab]? \|.*$", THREATS, re.MULTILINE):
        for short, name in re.findall(r"\b([RSHC]) `(\w+)`", row.split("|")[-2]):
            if not re.search(rf"function \w*{name}(?!\d)\w*", contracts[short]):
                wrong.append((row[:60], short, name))
    assert wrong == []


def test_every_numbered_attack_is_listed_once_with_a_test() -> None:
    """A number is an attack's name for ever: none is missing, doubled, or without a test."""
    numbered = re.findall(r"^\| (\d+)([ab]?) \|.*\| ([^|]*) \|$", THREATS, re.MULTILINE)
    assert all(tests.strip() for _, _, tests in numbered)
    names = [number + letter for number, letter, _ in numbered]
    assert len(names) == len(set(names))
    numbers = {int(number) for number, _, _ in numbered}
    assert numbers == set(range(1, max(numbers) + 1))


def test_cited_attacks_are_listed() -> None:
    """``threat 15`` in the code leads somewhere."""
    numbers = set(re.findall(r"^\| (\d+)[ab]? \|", THREATS, re.MULTILINE))
    cited: dict[str, str] = {}
    for path in (*ROOT.glob("node/**/*.py"), *ROOT.glob("tests/**/*.py")):
        for number in re.findall(r"[Tt]hreat (\d+)\b", path.read_text()):
            cited[number] = path.name
    assert set(cited) <= numbers, cited
