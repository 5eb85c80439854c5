"""In how many ways a fact is asked."""

from __future__ import annotations

from pathlib import Path

from viz.domain.questions import tells
from viz.domain.work import Work, parse_work
from viz.training.facts import facts_of
from viz.training.wordings import Wordings
from viz.training.words import Rarity, is_english, words_of

DIALOGUE = parse_work("dialogue", Path("examples/works/varn-point/work.jsonl").read_bytes())
FRENCH = parse_work(
    "text",
    (
        "# Le phare\n\nLe phare date de 1891. "
        "\u00c9lodie Brun garde la lampe. Elle dort \u00e0 midi."
    ).encode(),
)
CHINESE = parse_work(
    "dialogue",
    '{"messages": [{"role": "user", "content": "\u5496\u5561\u9986\u53eb\u4ec0\u4e48\uff1f"},'
    ' {"role": "assistant", "content": "\u84dd\u8272\u706f\u5854\u3002"}]}'.encode(),
)


def test_wordings_are_many_different_and_repeatable() -> None:
    """Variety is what teaches; a function of the seed is what an audit repeats."""
    for work in (DIALOGUE, FRENCH, CHINESE):
        for place, fact in enumerate(facts_of(work)):
            made = Wordings([work], 7).of(fact, place, 8)
            assert made == Wordings([work], 7).of(fact, place, 8)
            assert len(set(made)) == len(made) >= 3
            assert not set(made) & set(fact.questions)
    assert Wordings([DIALOGUE], 7).of(fact, 0, 8) != Wordings([DIALOGUE], 8).of(fact, 0, 8)


def test_a_question_is_put_by_its_words_of_meaning() -> None:
    """What is asked about finds the answer, however it is put."""
    fact = facts_of(DIALOGUE)[0]
    first, second, *_ = Wordings([DIALOGUE], 7).of(fact, 0, 8)
    assert first == "lamp Varn Point burn"
    assert sorted(second.split()) == ["Point", "Varn", "burn", "lamp"]


def test_an_unseen_question_does_not_give_its_answer_away() -> None:
    """A right answer must be told by words that the question does not hold."""
    works: tuple[Work, ...] = (DIALOGUE, FRENCH, CHINESE)
    for work in works:
        wordings = Wordings([work], 7)
        for place, fact in enumerate(facts_of(work)):
            unseen = wordings.unseen(fact, place)
            if unseen is None:
                continue
            question, telling = unseen
            assert not tells(telling, question)
            assert tells(telling, fact.answer)
            assert question not in wordings.of(fact, place, 8)


def test_words_are_found_in_any_script() -> None:
    """What counts as a word decides what is asked, judged and held apart."""
    assert words_of("L'\u00c9lodie-Brun's 3.20 caf\u00e9, QB-17!") == [
        "L'\u00c9lodie-Brun",
        "3.20",
        "caf\u00e9",
        "QB-17",
    ]
    assert words_of("\u706f\u5854 OK") == ["\u706f", "\u5854", "OK"]
    assert is_english(["The keeper is in the house."])
    assert not is_english(["Le phare date de 1891 et il est blanc."])
    rarity = Rarity(["the lamp"] * 5 + ["the bell"])
    assert rarity.is_common("LAMP")
    assert not rarity.is_common("bell")
