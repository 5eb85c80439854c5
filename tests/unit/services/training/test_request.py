"""What is read beside a work: its record, whose lack is explained, and its committed questions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from viz.domain.ports.engine import NO_MODEL
from viz.domain.questions import QUESTIONS_FILE
from viz.domain.units import Address, Hash32
from viz.errors import InvalidRequest, InvalidWork, ModelUnavailable
from viz.protocol.registration import parse_description
from viz.services.training.request import (
    MAX_QUESTIONS_BYTES,
    MOST_QUESTIONS,
    base_of,
    inputs_of,
    questions_of,
)
from viz.services.work_records import draft
from viz.training.run import WorkInput

CREATOR = Address("0x" + "11" * 20)
TERMS = """title = "Tides"
kind = "text"
file = "story.txt"
[terms]
training_fee = "2.00"
min_royalty_bps = 800
duration_s = 0
notice_s = 0
revocation_class = 0
uses = ["train"]
needs_approval = false
[license]
text = "all rights reserved"
"""


def test_a_work_without_its_record_says_whom_to_ask(tmp_path: Path) -> None:
    """Protects the trainer: not the names of fields, but the next step, in each of three cases."""
    work = tmp_path / "story.txt"
    with pytest.raises(InvalidRequest, match=r"there is no work .*story\.txt"):
        inputs_of({"works": [{"path": str(work)}]})
    work.write_text("The tide comes in twice a day.", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="ask its creator for the record"):
        inputs_of({"works": [{"path": str(work)}]})
    draft(work, parse_description(TERMS, token_decimals=6), CREATOR)
    with pytest.raises(InvalidRequest, match="drafted and not registered"):
        inputs_of({"works": [{"path": str(work)}]})


def test_a_request_names_its_base_by_name_or_digest_or_takes_the_first() -> None:
    """Training on another base than was meant would make an adapter that nobody can serve."""
    first = replace(NO_MODEL, name="small", digest=Hash32(b"\1" * 32))
    second = replace(NO_MODEL, name="large", digest=Hash32(b"\2" * 32))
    bases = [first, second]
    assert base_of({}, bases) is first
    assert base_of({"base": "large"}, bases) is base_of({"base": "0x" + "02" * 32}, bases) is second
    for wanted in ("Large", "", 7, "0x" + "03" * 32):
        with pytest.raises(InvalidRequest, match=r"it has small .*large .*\[\[engine\]\]"):
            base_of({"base": wanted}, bases)
    with pytest.raises(ModelUnavailable):
        base_of({}, [])


def _beside(folder: Path, count: int) -> WorkInput:
    folder.mkdir()
    asked = [
        {"id": str(n), "question": f"{folder.name} {n}?", "accepted": ["x"]} for n in range(count)
    ]
    if count:
        (folder / QUESTIONS_FILE).write_text(json.dumps({"questions": asked}))
    return WorkInput(1, "text", folder / "work.txt", CREATOR, "0x" + "01" * 32, "")


def test_each_work_asks_as_many_committed_questions(tmp_path: Path) -> None:
    """No work with many questions crowds out another's, and a run's time stays bounded."""
    few, none, many = (_beside(tmp_path / name, n) for name, n in (("a", 4), ("b", 0), ("c", 400)))
    assert questions_of([none]) == ()
    assert len(questions_of([few, few])) == 4  # two works of one folder share its questions
    drawn = questions_of([few, none, many])
    assert [each.question for each in drawn[:4]] == ["a 0?", "a 1?", "a 2?", "a 3?"]
    assert len(drawn) == 4 + MOST_QUESTIONS // 2
    assert drawn[-1].question.startswith("c 38")  # from all over the file


@pytest.mark.parametrize("raw", [b"{}", b"\xff", b" " * (MAX_QUESTIONS_BYTES + 1)])
def test_questions_that_cannot_be_read_are_told_before_anything_runs(
    tmp_path: Path, raw: bytes
) -> None:
    """A typing mistake in them is found when training is asked for, not at its end."""
    given = _beside(tmp_path / "a", 1)
    (tmp_path / "a" / QUESTIONS_FILE).write_bytes(raw)
    with pytest.raises(InvalidWork, match=QUESTIONS_FILE):
        questions_of([given])
