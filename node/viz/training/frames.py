"""Make English questions; the question word follows from the word left out.

Owns how a question begins for a number, a year, a day, a name or a thing, and how it is put around
a stretch of words. Does not know facts. The questions need not be good English: they teach that it
is the rare words that are asked about, whatever stands around them.
"""

from __future__ import annotations

from typing import Final, Literal

import regex

from viz.training.words import SeededDraw

Sort = Literal["year", "time", "number", "day", "name", "thing"]

_BEGINNINGS: Final[dict[Sort, tuple[str, ...]]] = {
    "year": ("In what year", "When", "Since when", "In which year"),
    "time": ("At what time", "When", "At what hour", "How early or late"),
    "number": ("How many", "How much", "What number", "How long", "How far", "What number of"),
    "day": ("On which day", "When", "On what day", "In which month"),
    "name": ("Who", "What is the name of", "What do they call", "Which", "Whose", "Where"),
    "thing": ("What", "Which", "What kind of", "With what", "Where", "Of what", "How"),
}
_AROUND: Final = (
    "{} {}?",
    "{} is it: {}?",
    "{}: {}",
    "Tell me, {} {}?",
    "{} is {}?",
    "{} was {}?",
    "{} does {} have?",
    "{} are {} there?",
)
_ABOUT: Final = (
    "I want to know about {}.",
    "Can you say something on {}?",
    "What can you tell me about {}?",
    "Is there anything on {}?",
    "{}?",
)
_YEAR: Final = regex.compile(r"1[0-9]{3}|20[0-9]{2}")
_TIME: Final = regex.compile(r"\p{N}{1,2}[:.]\p{N}{2}")
_NUMBER: Final = regex.compile(
    "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|"
    "nine)teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|half|dozen)"
    "(?:-.*)?"
)
_DAY: Final = regex.compile(
    "(?:mon|tues|wednes|thurs|fri|satur|sun)days?|january|february|march|april|may|june|july|august|"
    "september|october|november|december"
)


def is_number(low: str) -> bool:
    """Return whether a word in lower case is an English number."""
    return _NUMBER.fullmatch(low) is not None


def sort_of(word: str) -> Sort:
    """Return what kind of thing a word of an answer is."""
    low = word.casefold()
    if _YEAR.fullmatch(word):
        return "year"
    if _TIME.fullmatch(word):
        return "time"
    if any(map(str.isdigit, word)) or is_number(low):
        return "number"
    if _DAY.fullmatch(low):
        return "day"
    return "name" if word[:1].isupper() else "thing"


def question(stretch: str, left_out: str, draw: SeededDraw) -> str:
    """Return a question by ``stretch`` for the word ``left_out``."""
    if draw.below(4) == 0:
        return str(draw.one_of(_ABOUT)).format(stretch)
    beginning = draw.one_of(_BEGINNINGS[sort_of(left_out)])
    put = str(draw.one_of(_AROUND)).format(beginning, stretch)
    return put[:1].upper() + put[1:]
