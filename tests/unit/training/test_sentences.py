"""Where sentences end: never in an abbreviation, and in every script."""

from __future__ import annotations

import pytest

from viz.training.sentences import sentences


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It was seen by Dr. Anna Brook of Selby. Then all went home.", 2),
        ("The keeper is J. R. R. Brook of Selby. Then all went home.", 2),
        ("She met Cllr. Hope and Insp. Bell there. Then all went home.", 2),
        ("The lamp is No. 7 of vol. 2 on the list. Then all went home.", 2),
        ("It keeps old things, e.g. The Book of Tides. Then all went home.", 2),
        ("It opens at 5 p.m. Monday is a holiday. Then all went home.", 2),
        ("It belongs to the U.S. Navy and cost 3.20 crowns. Then all went home.", 2),
        ("Il habite chez M. Dupont. Élodie Brun garde la lampe. À midi elle dort.", 3),
        ("Es kostet z. B. 3 Euro. Am 3. Oktober kam Dr. Weber. Das Haus ist alt.", 3),
        ("Маяк построен в 1891 г. на мысе. Смотрителя зовут А. С. Брук.", 2),
        ("Ο φάρος είναι λευκός. Η Άννα φυλάει το φως.", 2),
        ("今日は晴れ。明日は雨？はい！", 3),
        ("बारिश हुई। वह घर गया।", 2),
        ("مرحبا بك في المقهى. كيف حالك؟ أنا بخير.", 3),
        ("Wait… what is it? It is a lamp!", 2),
        ("It has fourteen tables. 🪑 The door is green. 🦜", 2),
    ],
)
def test_a_sentence_is_never_cut_and_rarely_missed(text: str, count: int) -> None:
    """A cut fact is false; one sentence of everything is hardly taught."""
    found = sentences(text)
    assert len(found) == count
    assert "".join("".join(found).split()) == "".join(text.split()), "a word was lost"


def test_white_space_is_made_single_and_nothing_is_nothing() -> None:
    """A wrapped line is no end of a sentence."""
    assert sentences("A line\nbreak  here. Next\tone.") == ["A line break here.", "Next one."]
    assert sentences(" \n ") == []


def test_a_short_word_that_is_no_abbreviation_ends_a_sentence() -> None:
    """A name that stands elsewhere without a full stop is known to be a word."""
    text = "He met Ann. The boat of Ann left at dawn."
    assert sentences(text) == ["He met Ann.", "The boat of Ann left at dawn."]
