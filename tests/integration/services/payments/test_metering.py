"""What is booked while an answer streams never exceeds what the whole answer costs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.real_base import real_base
from tokenizers import Regex, pre_tokenizers

from viz.services.payments.metering import lasting_part

_SIGNS = st.sampled_from("ab \n.,'19é漢😀-_\t\r\u3000")
_TEXT = st.text(st.one_of(_SIGNS, st.characters(codec="utf-8")))
_WORD = st.sampled_from(["the", "tide", "turns", "don't", "1234", "—", "漢字", "，", "aGk9", "+/"])
_WORDS = st.lists(_WORD).map(" ".join) | st.lists(_WORD).map("".join)
_PROSE = "The tide turns at noon, and nobody had told the harbour master about it. "
_CJK = "潮は正午に変わる。しかし、港長には誰も知らせなかった。今天中午涨潮，但是没有人告诉他。"
_BASE64 = base64.b64encode(hashlib.sha256(b"tide").digest() * 4).decode()


@pytest.fixture(scope="module")
def count() -> Callable[[str], int]:
    return real_base().tokenizer.count


@given(beginning=_TEXT | _WORDS, rest=_TEXT | _WORDS)
def test_the_count_of_the_lasting_part_never_falls(
    count: Callable[[str], int], beginning: str, rest: str
) -> None:
    """Money booked as spent cannot be given back, so a later token must not lower the count."""
    assert count(lasting_part(beginning)) <= count(beginning + rest)
    assert beginning.startswith(lasting_part(beginning))


@pytest.mark.parametrize("word", ["tide", "tide.", "7"])
def test_a_gap_that_grows_lowers_no_count(count: Callable[[str], int], word: str) -> None:
    """Line breaks and an indentation may merge into fewer tokens than a part of them has."""
    gaps = ["".join(each) for length in range(1, 7) for each in product(" \n\r", repeat=length)]
    for gap in gaps:
        whole = count(word + gap)
        for end in range(1, len(gap) + 1):
            assert count(lasting_part(word + gap[:end])) <= whole


@pytest.mark.parametrize("text", [_PROSE, _CJK, _BASE64], ids=["prose", "cjk", "base64"])
def test_of_any_text_little_is_left_out(count: Callable[[str], int], text: str) -> None:
    """A script without spaces is booked while it streams, not only once the answer has ended."""
    for end in range(24, len(text)):
        part = lasting_part(text[:end])
        assert text.startswith(part) and end - len(part) <= 16
        assert count(part) + count(text[len(part) :]) >= count(text) >= count(part) > 0


_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: dict[str, Any] = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    ),
    "llama3": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


@pytest.mark.parametrize("name", _PATTERNS)
@given(beginning=_TEXT | _WORDS, rest=_TEXT | _WORDS)
def test_the_patterns_in_use_part_text_where_its_lasting_part_ends(
    name: str, beginning: str, rest: str
) -> None:
    """So no merge goes over that place, whatever the vocabulary and whatever follows."""
    part = lasting_part(beginning)
    if not part:
        return
    pattern = _PATTERNS[name]
    alone = pattern.pre_tokenize_str(part)
    assert pattern.pre_tokenize_str(beginning + rest)[: len(alone)] == alone
