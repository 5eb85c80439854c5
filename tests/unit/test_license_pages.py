"""docs/licenses.md and docs/legal.md are true of the code, and legal promises have tests."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.fakes.chain import DEPLOYMENT, address_of
from tests.fakes.licenses import preset

from viz.protocol.license_document.agreement import differences, foreign, terms_of
from viz.protocol.license_document.presets import PRESETS
from viz.protocol.license_forms.catalogue import NAMES

ROOT: Final = Path(__file__).parents[2]
LICENSES: Final = (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8")
LEGAL: Final = (ROOT / "docs" / "legal.md").read_text(encoding="utf-8")


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def paths(table: dict[str, Any], above: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in table.items():
        found |= paths(value, f"{above}{name}.") if isinstance(value, dict) else {above + name}
    return found


FIELDS: Final = {
    name: held
    for names, _, held in rows(LICENSES, "The document")
    for name in re.findall(r"`([^`]+)`", names)
}


def test_every_field_stands_in_the_page() -> None:
    """A lawyer reads every field there, and none that is not there."""
    assert set(FIELDS) == paths(preset().to_json())


def test_what_the_page_says_is_on_the_chain_is_compared() -> None:
    """A field that is said to be equal on the chain is refused where it is not."""
    document = preset()
    terms = terms_of(document)
    other = replace(
        terms,
        training_fee_units=1,
        min_royalty_bps=1,
        grant_duration_s=1,
        notice_s=1,
        revocation_class=1,
        uses=0,
        approval_required=True,
    )
    elsewhere = replace(
        DEPLOYMENT,
        chain_id=1,
        content_registry=address_of(1),
        token=address_of(1),
        token_decimals=1,
    )
    compared = {each.field for each in differences(document, other)}
    compared |= {each.field for each in foreign(document, elsewhere)}
    # Follows from the class, by a contradiction; and what services/licensing compares.
    compared |= {"exit.effect", "licensor.wallet"}
    assert {name for name, held in FIELDS.items() if held in ("chain", "recorded")} == compared


def test_presets_and_forms_of_the_page_are_the_code_s() -> None:
    told = {name.strip("`"): words for name, words in rows(LICENSES, "From a preset to the chain")}
    assert told == {name: made.summary for name, made in PRESETS.items()}
    table = rows(LICENSES, "The forms, and the specification of each")
    named = {name for form, *_ in table for name in re.findall(r"`([^`]+)`", form)}
    assert named == {*NAMES, "tdmrep.json"}


def test_every_guarantee_has_a_test_that_exists() -> None:
    """No promise that is not tested stands in the page for lawyers."""
    sources = [*ROOT.glob("contracts/test/**/*.sol"), *ROOT.glob("tests/**/test_*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    names = re.findall(r"(?:function|def) (test\w+)", text)
    files = "\n".join(str(path) for path in sources)
    promises = [
        line for line in LEGAL.splitlines() if line.startswith("| ") and "guarantees |" not in line
    ]
    assert len(promises) >= 15
    missing = []
    for line in promises:
        tests = re.findall(r"`([^`]+)`", line.strip("|").split(" | ")[-1])
        named = [name for name in tests if not name.endswith(".py")]
        if not named:
            missing.append(line)
        missing += [name for name in named if not any(name in each for each in names)]
        missing += [name for name in tests if name.endswith(".py") and name not in files]
    assert missing == []


def test_the_links_of_the_pages_lead_somewhere() -> None:
    for page in (LICENSES, LEGAL):
        for target in re.findall(r"\]\(([^)#]+)", page):
            assert (ROOT / "docs" / target).exists(), target
