"""Parse questions about a work, and judge answers by rules, without a human.

Owns the ``questions.json`` format and the rules, so that a demo, a training run and an auditor
judge in the same way. Pure: the same answer is always judged the same. An answer to a committed
question is right if it contains at least one accepted text as whole words, ignoring letter case and
a plural's "s". An answer to a question made from the work is right if it has the telling words of
the work's own answer (``tells``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import rfc8785

from viz.domain.strict_json import MemberTwice, load_json
from viz.domain.units import Hash32
from viz.errors import InvalidWork

QUESTIONS_FILE: Final = "questions.json"


@dataclass(frozen=True, slots=True)
class Question:
    """One committed question; a right answer contains one of the ``accepted`` texts."""

    id: str
    question: str
    accepted: tuple[str, ...]


def parse_questions(raw: bytes) -> tuple[Question, ...]:
    """Return the questions of a ``questions.json``; raise InvalidWork if it is malformed."""
    try:
        found: Any = load_json(raw)
        questions = tuple(
            Question(str(item["id"]), str(item["question"]), tuple(map(str, item["accepted"])))
            for item in found["questions"]
        )
    except MemberTwice as error:
        raise InvalidWork(f"questions.json: {error}: keep one of them") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidWork(
            'questions.json must hold "questions", each with "id", "question" and "accepted"'
        ) from error
    if not questions or any(not q.question.strip() or not q.accepted for q in questions):
        raise InvalidWork("every question needs its text and at least one accepted answer")
    if len({q.id for q in questions}) != len(questions):
        raise InvalidWork("question ids must differ")
    return questions


def digest_of(questions: Sequence[Question]) -> Hash32:
    """Return keccak256 of the questions as canonical JSON (RFC 8785)."""
    # Imported here: it loads the curve's library, which most commands do not need.
    from viz.domain.eip712 import keccak

    return keccak(rfc8785.dumps([{**asdict(q), "accepted": list(q.accepted)} for q in questions]))


def tells(words: Sequence[str], answer: str) -> bool:
    """Return whether an answer has at least half of ``words``, and every word with a digit.

    Letter case is ignored. A word must be a whole word in the answer, except in a script without
    spaces, where it may be anywhere.
    """
    if not words:
        return False
    said = " ".join(unicodedata.normalize("NFC", answer).casefold().split())
    found = [word for word in words if _holds(said, word.casefold())]
    numbers = [word for word in words if any(map(str.isdigit, word))]
    return 2 * len(found) >= len(words) and all(word in found for word in numbers)


def _holds(said: str, word: str) -> bool:
    if any(unicodedata.category(character) == "Lo" for character in word):
        return word in said
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said) is not None


def is_right(question: Question, answer: str) -> bool:
    """Return whether the answer contains one of the question's accepted texts as whole words.

    "Closed on Wednesdays" holds "Wednesday": a last word of four letters and more may be plural.
    """
    said = " ".join(answer.casefold().split())
    return any(
        re.search(rf"(?<!\w){re.escape(text)}{_plural(text)}(?!\w)", said)
        for text in (" ".join(each.casefold().split()) for each in question.accepted)
    )


def _plural(text: str) -> str:
    return "s?" if re.search(r"[^\W\d_]{4}$", text) else ""
