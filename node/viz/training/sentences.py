"""Find where sentences end, in any language and script.

Owns the cut of running text into sentences. Does not know works or rows. The segmenter is
``sentencex`` (rules of some 300 languages). Nobody says in which language a work is written:
English is known by its words, and of another text only those ends count on which the rules of all
languages below agree, each with its abbreviations. What still looks like an abbreviation is
treated as an abbreviation. Where in doubt, two sentences stay together: a long answer is right, a
cut one is false. Invariant: the sentences, joined, are the text but for its white space.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import regex
import sentencex

from viz.training.words import is_english, says_something

# Those that write a full stop; Danish and Catalan are left out, a thousand times slower.
_WITH_A_FULL_STOP: Final = "en fr de es it pt nl sv nb pl cs ru uk el tr hu fi ro bg sr ar hi"
_LAST_WORD: Final = regex.compile(r"([\p{L}\p{M}\p{N}.]+)[.\uff0e][\p{Pe}\p{Pf}\"']*$")
_VOWEL: Final = regex.compile(r"(?i)[aeiouyàâäáãåæéèêëíìîïóòôöõøœúùûüýаеёиоуыэюяіїєαειουηωάέήίόύώ]")
_LEADING_SYMBOLS: Final = regex.compile(r"[\p{So}\p{Sk}\p{M}\u200d\s]+")
_STARTS_LOW: Final = regex.compile(r"^[\p{P}\p{S}\s]*\p{Ll}")
_STARTS_WITH_NUMBER: Final = regex.compile(r"^[\p{P}\s]*\p{N}")
_LIST_NUMBER: Final = regex.compile(r"^[\p{P}\s]*(?:\p{N}+|\p{L})[.)]\s*$")
# The longest word that may be an abbreviation although no list names it.
_LONGEST: Final = 5


def sentences(text: str) -> list[str]:
    """Return the sentences of ``text``, white space made single."""
    text = " ".join(text.split())
    known = _words_without_stop(text)
    found: list[str] = []
    for whole in _pieces(text):
        led = _LEADING_SYMBOLS.match(whole)
        piece = whole[led.end() :] if found and led else whole
        if found and led:  # an emoji closes the sentence before it
            found[-1] += led[0]
        if found and _belongs_together(found[-1].strip(), piece, known):
            found[-1] += piece
        else:
            found.append(piece)
    return [sentence.strip() for sentence in found if sentence.strip()]


def _pieces(text: str) -> Iterator[str]:
    """Yield the stretches on whose ends all languages agree, with the space after each."""
    ends: set[int] = set()
    for place, language in enumerate(["en"] if is_english([text]) else _WITH_A_FULL_STOP.split()):
        at, own = 0, set()
        for sentence in sentencex.segment(language, text):
            at += len(sentence)
            own.add(at)
        ends = own if place == 0 else ends & own
    start = 0
    for end in sorted(ends | {len(text)}):
        if start < end:
            yield text[start:end]
        start = end


def _belongs_together(before: str, after: str, known: frozenset[str]) -> bool:
    if not says_something(after) or _LIST_NUMBER.match(before):
        return True
    if _STARTS_LOW.match(after):
        return True
    last = _LAST_WORD.search(before)
    if last is None:
        return False
    word = last[1].strip(".")
    if "." in word or (len(word) == 1 and word.isalpha()):
        return True  # p.m., e.g., U.S., initials
    if not word.isalpha() or len(word) > _LONGEST or word.casefold() in known:
        return False
    if _STARTS_WITH_NUMBER.match(after) or not _VOWEL.search(word):
        return True  # vol. 2, Rm. 12, Cllr. Hope
    ends_like_a_word = len(word) > 4 or (len(word) == 4 and bool(_VOWEL.match(word[-1])))
    return word[:1].isupper() and not ends_like_a_word


def _words_without_stop(text: str) -> frozenset[str]:
    """Return the words that occur with no full stop after them: those are not abbreviations."""
    return frozenset(
        word.casefold()
        for word in regex.findall(r"\p{L}[\p{L}\p{M}]*(?![\p{L}\p{M}.\uff0e])", text)
    )
