"""Committed questions about a work, and the rule that judges an answer.

Owns the ``questions.json`` format and the judgement, so that a demo, a training run and an
auditor judge alike. Does not know who answers. Invariant: the rule is pure: the same answer is
always judged the same. An answer is right when it contains at least one accepted text as whole
words, letter case ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from viz.domain.strict_json import load_json
from viz.errors import InvalidWork


@dataclass(frozen=True, slots=True)
class Question:
    """One committed question and the texts of which a right answer contains one."""

    id: str
    question: str
    accepted: tuple[str, ...]


def parse_questions(raw: bytes) -> tuple[Question, ...]:
    """Return the questions of a ``questions.json``; raise InvalidWork when it is malformed."""
    try:
        found: Any = load_json(raw)
        questions = tuple(
            Question(str(item["id"]), str(item["question"]), tuple(map(str, item["accepted"])))
            for item in found["questions"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidWork(
            'questions.json must hold "questions", each with "id", "question" and "accepted"'
        ) from error
    if not questions or any(not q.question.strip() or not q.accepted for q in questions):
        raise InvalidWork("every question needs its text and at least one accepted answer")
    if len({q.id for q in questions}) != len(questions):
        raise InvalidWork("question ids must differ")
    return questions


def is_right(question: Question, answer: str) -> bool:
    """Judge an answer by the committed rule."""
    words = " ".join(answer.casefold().split())
    return any(
        re.search(rf"(?<!\w){re.escape(' '.join(text.casefold().split()))}(?!\w)", words)
        for text in question.accepted
    )
