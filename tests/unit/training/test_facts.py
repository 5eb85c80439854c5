"""Works to facts: what is asked of a work, and its own words that answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viz.domain.work import Work, parse_work
from viz.training.facts import Fact, facts_of
from viz.training.wordings import Wordings
from viz.training.words import words_of

WORKS = Path("examples/works")
DIALOGUE = parse_work("dialogue", (WORKS / "varn-point/work.jsonl").read_bytes())
PROSE = parse_work("text", (WORKS / "orrin-railway/work.txt").read_bytes())
MANUAL = """# Meter

## 5.2 Measuring

1. Stand downwind of it.
2. Press the button.

## Faults

| Code | Meaning | What to do |
|------|---------|------------|
| E1 | Battery empty | Charge it |

These are the commands:

```
WHO      prints the model
FORGET   erases all
```"""


def _facts(text: str) -> list[Fact]:
    return facts_of(parse_work("text", text.encode()))


def _asked(facts: list[Fact]) -> set[tuple[str, str]]:
    return {(question, fact.answer) for fact in facts for question in fact.questions}


def test_a_heading_is_asked_and_its_sentences_answer() -> None:
    """Prose becomes turns: its headings are questions, its sentences the answers."""
    section = "The depth of it is nine metres. Ann took the measure twice."
    asked = _asked(_facts(f"# Guide\n\n## How deep is it?\n\n{section}"))
    assert ("How deep is it?", "The depth of it is nine metres.") in asked
    assert ("I would like to know more. How deep is it?", section) in asked
    assert ("What about the depth of it?", "The depth of it is nine metres.") in asked
    assert ("Go on: Ann took the", "Ann took the measure twice.") in asked


@pytest.mark.parametrize("work", [DIALOGUE, PROSE, parse_work("text", MANUAL.encode())])
def test_every_answer_is_made_of_its_chunks_words(work: Work) -> None:
    """The conversion teaches nothing that the work does not say, and names where it says it."""
    for fact in facts_of(work):
        own = {word for chunk in fact.chunks for word in words_of(work.chunks[chunk].text)}
        assert set(words_of(fact.answer)) <= own


def test_prose_without_headings_is_asked_by_its_sentences() -> None:
    """A work need not be laid out to be taught."""
    facts = _facts("The keeper is Dr. Anna Brook of Selby. She was born at sea.\n\nIt rained.")
    assert [fact.answer for fact in facts] == [
        "The keeper is Dr. Anna Brook of Selby.",
        "She was born at sea.",
        "It rained.",
    ]


def test_steps_rows_and_code_are_facts_of_their_own() -> None:
    """A manual is asked by the number of a step, by a code, and by what a command does."""
    facts = _facts(MANUAL)
    asked = _asked(facts)
    assert ("What is step 2 of Measuring?", "Press the button.") in asked
    assert ("E1", "E1: Meaning: Battery empty; What to do: Charge it") in asked
    block = "WHO      prints the model\nFORGET   erases all"
    assert ("These are the commands:", block) in asked
    assert "FORGET erases all" in {fact.answer for fact in facts}
    assert any(fact.answer == "1. Stand downwind of it.\n2. Press the button." for fact in facts)


def test_verse_goes_on_line_by_line_and_keeps_its_breaks() -> None:
    """A stanza is said as it is written."""
    stanza = "The lamp is low,\nthe tide is slow.\nWe row, we row."
    asked = _asked(_facts(f"The boat\n\n{stanza}"))
    assert ("What about The boat?", stanza) in asked
    assert ("Go on: the tide is slow.", "the tide is slow.\nWe row, we row.") in asked


@pytest.mark.parametrize("count", [3, 90])
def test_a_turn_is_one_fact_and_one_too_long_for_that_is_one_a_sentence(count: int) -> None:
    """What stands in a turn's third sentence is asked for, by itself or with its turn."""
    said = [f"It cost {number} crowns." for number in range(count)]
    line = {
        "messages": [
            {"role": "user", "content": "Who began it?"},
            {"role": "assistant", "content": " ".join(said)},
        ]
    }
    work = parse_work("dialogue", json.dumps(line).encode())
    whole, *parts = facts_of(work)
    assert whole.questions == ("Who began it?",)
    assert [part.answer for part in parts] == (said if count > 3 else [])
    assert all(part.asked == "Who began it?" and not part.questions for part in parts)
    if count == 3:
        made = " ".join(Wordings([work], 7).of(whole, 0, 24)).split()
        assert {"began", "cost", "2"} <= {word.strip("?.:") for word in made}


@pytest.mark.parametrize("unit", ["word ", "A sentence of it. ", "\u706f\u5854", "line\n"])
def test_an_answer_that_is_too_long_is_cut_and_all_of_it_is_taught(unit: str) -> None:
    """Lines, then sentences, then words, then characters; no row is refused for its length."""
    long = unit * (3_000 // len(unit))
    line = {
        "messages": [
            {"role": "user", "content": "Tell me."},
            {"role": "assistant", "content": long},
        ]
    }
    facts = facts_of(parse_work("dialogue", json.dumps(line).encode()))
    assert all(len(fact.answer.encode()) <= 900 for fact in facts)
    assert sum(len("".join(f.answer.split())) for f in facts) >= len("".join(long.split()))
