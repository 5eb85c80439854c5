"""What has arrived of an answer, and how much of it there is."""

from __future__ import annotations

from typing import Any

from viz.buyer.answers.received import ReceivedAnswer
from viz.buyer.terms.counting import Counter


def words(text: str) -> int:
    """Count the words, as a tokenizer with a long entry for each would."""
    return len(text.split())


def chunk(text: str, index: int = 0) -> dict[str, Any]:
    """Return a chunk with new text for a choice."""
    return {"choices": [{"index": index, "delta": {"content": text}}]}


def test_the_tokens_of_a_part_that_broke_off_are_counted_not_bounded() -> None:
    """The account of an answer over two nodes says what each delivered: 24 tokens were told as 50,
    so that more seemed to be paid than was asked for."""
    arrived = ReceivedAnswer(2, 64, Counter(count_tokens=words))
    for word in (" The", " keeper", " of", " the", " light") * 4:
        arrived.take(chunk(word))
    arrived.take(chunk("One", 1))
    assert arrived.count() == 21
    assert arrived.tokens > arrived.count(), "cheap, for each chunk: never too low"


def test_without_a_tokenizer_the_count_is_a_bound() -> None:
    """Every token spells at least one byte."""
    arrived = ReceivedAnswer(1, 64)
    arrived.take(chunk("Grüße"))
    assert arrived.count() == arrived.tokens == len("Grüße".encode())
