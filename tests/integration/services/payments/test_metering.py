"""What is booked while an answer streams never exceeds what the whole answer costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.real_base import real_base

from viz.services.payments.metering import whole_words

_SIGNS = st.sampled_from("ab \n.,'19é漢😀-_\t\r\u3000")
_TEXT = st.text(st.one_of(_SIGNS, st.characters(codec="utf-8")))
_WORD = st.sampled_from(["the", "tide", "turns", "don't", "1234", "—", "漢字"])
_WORDS = st.lists(_WORD).map(" ".join)


@pytest.fixture(scope="module")
def count() -> Callable[[str], int]:
    return real_base().tokenizer.count


@given(beginning=_TEXT | _WORDS, rest=_TEXT | _WORDS)
def test_the_count_of_whole_words_never_falls(
    count: Callable[[str], int], beginning: str, rest: str
) -> None:
    """Money booked as spent cannot be given back, so a later token must not lower the count."""
    assert count(whole_words(beginning)) <= count(beginning + rest)
