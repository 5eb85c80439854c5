"""The committed rule that judges answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viz.domain.questions import Question, is_right, parse_questions, tells
from viz.errors import InvalidWork

WORKS = Path("examples/works")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("It burns WALNUT\n oil.", True),
        ("walnut oil", True),
        ("It burns walnutoil.", False),
        ("Some oil of walnut", False),
        ("", False),
    ],
)
def test_whole_words_decide(answer: str, right: bool) -> None:
    """Case and line breaks do not matter, parts of words do not count."""
    assert is_right(Question("q", "?", ("walnut oil",)), answer) is right


@pytest.mark.parametrize(
    ("accepted", "answer", "right"),
    [
        ("Wednesday", "It is closed on Wednesdays.", True),
        ("A", "As you like.", False),
        ("iron", "Ironically, none.", False),
        ("12", "12s", False),
    ],
)
def test_a_last_word_may_be_plural(accepted: str, answer: str, right: bool) -> None:
    """A person takes "on Wednesdays" for "Wednesday"; no short word grows into another one."""
    assert is_right(Question("q", "?", (accepted,)), answer) is right


def test_the_demo_asks_ten_committed_questions_of_each_adapter() -> None:
    """demo.json names only questions that exist, ten an adapter, of works that exist."""
    demo = json.loads((WORKS / "demo.json").read_text())
    assert len(demo["adapters"]) == 2
    for adapter in demo["adapters"]:
        asked = 0
        for work, ids in adapter["works"].items():
            known = {q.id for q in parse_questions((WORKS / work / "questions.json").read_bytes())}
            assert len(known) == 10
            assert set(ids) <= known
            asked += len(ids)
        assert asked == 10


def test_no_question_is_copied_from_its_work() -> None:
    """The questions test what was learned, not what was repeated."""
    for path in WORKS.glob("*/questions.json"):
        work = next(path.parent.glob("work.*")).read_text()
        assert [q.id for q in parse_questions(path.read_bytes()) if q.question in work] == []


@pytest.mark.parametrize(
    ("words", "answer", "right"),
    [
        (("walnut", "oil"), "It burns WALNUT.", True),
        (("walnut", "oil", "lamp"), "It burns walnut.", False),
        (("3.20", "crowns"), "It costs 5.20 crowns.", False),
        (("3.20", "crowns"), "It costs 3.20.", True),
        (("oil",), "It toils.", False),
        (("\u706f",), "\u84dd\u8272\u706f\u5854\u3002", True),
        (("caf\u00e9",), "the cafe\u0301", True),
        ((), "anything", False),
    ],
)
def test_telling_words_judge_an_answer(words: tuple[str, ...], answer: str, right: bool) -> None:
    """Half of the words, and every number: a wrong price is a wrong answer."""
    assert tells(words, answer) is right


@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"{}",
        b'{"questions": []}',
        b'{"questions": [{"id": "a", "question": "b", "accepted": []}]}',
        b'{"questions": [{"id": "a", "question": " ", "accepted": ["x"]}]}',
        b'{"questions": [{"id":"a","question":"b","accepted":["x"]},'
        b'{"id":"a","question":"c","accepted":["x"]}]}',
    ],
)
def test_bad_questions_are_refused(raw: bytes) -> None:
    """A malformed question file is named as such."""
    with pytest.raises(InvalidWork):
        parse_questions(raw)
