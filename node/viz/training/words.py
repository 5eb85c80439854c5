"""Find words in any script, and make random draws that do not depend on a library.

Owns what a word is, which words belong to the question and not to its subject, and how rare a word
is in the works of a run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, MutableSequence, Sequence
from typing import Final, TypeVar

import regex

_Any = TypeVar("_Any")

_WORD: Final = regex.compile(
    r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:['\u2019.,:@/-][\p{L}\p{N}\p{M}]+)*"
)
_SAYS_SOMETHING: Final = regex.compile(r"[\p{L}\p{N}]")
# Scripts that are written without spaces: each character stands for a word.
_UNSPACED: Final = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
)
_POSSESSIVE: Final = regex.compile(r"['\u2019]s$")
# English. A text in another language hardly has any of them, and is then left as it is.
_FORM: Final = (
    "a about after all also am an and any are as at be been before but by can could did do "
    "does for from had has have he her here him his how i if in into is it its let may me "
    "might my no not of on one or our out s she should so some than that the their them "
    "then there these they this those to too up us was we were what when where which while "
    "who whom whose why will with would yes you your "
)
FORM_WORDS: Final = frozenset(_FORM.split())
_ENGLISH_SHARE: Final = 0.25


def words_of(text: str) -> list[str]:
    """Return the words of ``text`` as they are written, without a possessive's ending."""
    found: list[str] = []
    for word in _WORD.findall(text):
        if word.isascii():
            found.append(word.removesuffix("'s"))
        elif _UNSPACED.search(word):
            found += regex.findall(r"\X", word)
        else:
            found.append(_POSSESSIVE.sub("", word))
    return found


def meaning_of(text: str) -> list[str]:
    """Return the words that say what a text is about; all, where it has no others."""
    words = words_of(text)
    return [word for word in words if word.casefold() not in FORM_WORDS] or words


def says_something(text: str) -> bool:
    """Return whether a text has a letter or a digit."""
    return _SAYS_SOMETHING.search(text) is not None


def is_english(texts: Iterable[str]) -> bool:
    """Return whether so many words of ``texts`` are English words of form that they are English."""
    words = [word.casefold() for text in texts for word in words_of(text)]
    return sum(word in FORM_WORDS for word in words) > _ENGLISH_SHARE * max(1, len(words))


class Rarity:
    """How many of the texts hold a word."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = max(1, len(texts))
        self._held = Counter(
            word for text in texts for word in {each.casefold() for each in words_of(text)}
        )

    def is_common(self, word: str) -> bool:
        """Return whether more than a tenth of the texts hold ``word``: it tells few apart."""
        return self._held[word.casefold()] > max(2.0, self._texts / 10)

    def count(self, word: str) -> int:
        return self._held[word.casefold()]


class SeededDraw:
    """Draws that are a function of a label: an audit repeats them with any library."""

    def __init__(self, label: str) -> None:
        self._label, self._drawn = label, 0

    def below(self, bound: int) -> int:
        """Return one of 0..bound-1."""
        self._drawn += 1
        digest = hashlib.sha256(f"{self._label}/{self._drawn}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % bound

    def share(self) -> float:
        """Return a number from 0 to 1."""
        return self.below(1 << 32) / (1 << 32)

    def one_of(self, options: Sequence[_Any]) -> _Any:
        return options[self.below(len(options))]

    def mix(self, items: MutableSequence[_Any]) -> None:
        """Put ``items`` into another order, in place."""
        for place in range(len(items) - 1, 0, -1):
            other = self.below(place + 1)
            items[place], items[other] = items[other], items[place]
