"""Guess the language of a text by its script, and by common short words.

Owns the word lists of the languages that it can distinguish. The guess is for a whole work, and for
a person who can correct it: short texts and other languages give no guess. Libraries for a hundred
languages would bring NumPy or a model of many megabytes into the core install.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

_WORDS: Final = {
    "cs": "a že se na je v s z ale jako byl jsem které aby když pro",
    "da": "og at det er en jeg ikke til på med af der som han hun blev",
    "de": "der die und das ist nicht ein zu den mit sich auf dem für eine es",
    "en": "the and of to a in that it is was he for with his as but",
    "es": "el la de que y en los se del las por con una para no su",
    "fi": "ja on ei se hän että oli mutta kun niin sen mitä myös joka ovat",
    "fr": "le la les et des que dans qui une pour pas sur au il elle est",
    "hu": "a az és hogy nem is egy volt meg de csak mint ez el már",
    "it": "il che di la è non un per una con del sono si gli della ma",
    "nl": "de het een en van niet dat is te op zijn met die voor ik hij",
    "pl": "i w nie się na że jest to z do jak ale był przez po tym",
    "pt": "o que de e a não um uma do da em os para com se é",
    "ro": "și în nu să că de la o un este pe cu din mai care",
    "sv": "och att det är en jag inte på som av för med han hon till den",
    "tr": "ve bir bu da de için ne o çok gibi daha ama ben değil var",
}
_LISTS: Final = {name: frozenset(words.split()) for name, words in _WORDS.items()}
_SCRIPTS: Final = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "GREEK": "el", "HEBREW": "he",
    "THAI": "th", "ARABIC": "ar", "DEVANAGARI": "hi", "CYRILLIC": "ru", "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}  # fmt: skip
# A script of several languages gives no language, except for the most common ones.
_SHARED: Final = {"ar": "Arabic", "hi": "Devanagari", "ru": "Cyrillic", "zh": "Han"}
_READ_CHARS: Final = 200_000
_FEWEST_WORDS: Final = 40
_LEAST_SHARE: Final = 0.08
_WORD: Final = re.compile(r"[^\W\d_]+")


def guess_language(text: str) -> str:
    """Return a BCP 47 tag, ``script:NAME`` for one of many languages, or "" without a guess."""
    part = text[:_READ_CHARS]
    if script := _script(part):
        shared = _SHARED.get(script)
        return f"script:{shared}" if shared else script
    words = [word.casefold() for word in _WORD.findall(part)]
    if len(words) < _FEWEST_WORDS:
        return ""
    counts = Counter(words)
    shares = {
        name: sum(counts[word] for word in listed) / len(words) for name, listed in _LISTS.items()
    }
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _LEAST_SHARE else ""


def _script(text: str) -> str:
    """Return the language of the script of most letters, or "" for Latin letters."""
    found: Counter[str] = Counter()
    letters = [letter for letter in text if letter.isalpha()][:5_000]
    for letter in letters:
        name = unicodedata.name(letter, "").partition(" ")[0]
        found[_SCRIPTS.get(name, "")] += 1
    if not letters:
        return ""
    # Japanese also uses Han characters: a tenth of kana identifies it.
    if found["ja"] * 10 > len(letters):
        return "ja"
    most, count = found.most_common(1)[0]
    return most if count * 2 > len(letters) else ""
