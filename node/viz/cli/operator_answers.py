"""Check the form of what the running node answers to its operator's commands, in one place.

Commands print these answers and calculate with them. The node may be of another version, or
another program may have its socket or port: then one sentence says so, and no command fails within
its table.

Owns the form of each answer, as far as commands use it. A member that is absent is not checked
here: an ``AnswerObject`` tells of it when it is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from viz.protocol.answers import no_answer

MAX_DECIMALS: Final = 77
MAX_DIGITS: Final = 78
MAX_NUMBER: Final = 10**18


class Leaf:
    """What one value must be; ``said`` names it in the error."""

    said = "what it is"

    def fits(self, value: object) -> bool:
        raise NotImplementedError


class _NumberLeaf(Leaf):
    said = "a number"

    def fits(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) <= MAX_NUMBER


class _WholeLeaf(Leaf):
    """A whole number of at most ``most``."""

    said = "a whole number"

    def __init__(self, most: int = 10**MAX_DIGITS) -> None:
        self._most = most

    def fits(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= self._most


class _AmountLeaf(Leaf):
    """Base units: digits as text, or a whole number."""

    said = "an amount"

    def fits(self, value: object) -> bool:
        text = value if isinstance(value, str) else str(value) if WHOLE.fits(value) else ""
        return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


class _TextLeaf(Leaf):
    said = "text"

    def fits(self, value: object) -> bool:
        return isinstance(value, str)


class _FlagLeaf(Leaf):
    said = "true or false"

    def fits(self, value: object) -> bool:
        return isinstance(value, bool)


class Maybe:
    """A value that may be null."""

    def __init__(self, form: AnswerForm) -> None:
        self.form = form


class Each:
    """An object whose members all have one form, by names that are not known before."""

    def __init__(self, form: AnswerForm) -> None:
        self.form = form


AnswerForm = (
    Leaf | Maybe | Each | dict[str, "AnswerForm"] | list["AnswerForm"] | tuple["AnswerForm", ...]
)
WHOLE: Final = _WholeLeaf()
NUMBER, TEXT, FLAG, AMOUNT = _NumberLeaf(), _TextLeaf(), _FlagLeaf(), _AmountLeaf()


def require_form(value: object, form: AnswerForm, name: str = "the answer") -> None:
    """Raise NodeRefused if a value has not the form.

    A list has one form for all of its items, a tuple one form for each.
    """
    if isinstance(form, Maybe):
        if value is not None:
            require_form(value, form.form, name)
    elif isinstance(form, Leaf):
        if not form.fits(value):
            raise no_answer(f"its {name!r} is not {form.said}")
    elif isinstance(form, tuple):
        if not isinstance(value, list) or len(value) != len(form):
            raise no_answer(f"its {name!r} is not a list of {len(form)}")
        for part, its in zip(value, form, strict=True):
            require_form(part, its, name)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise no_answer(f"its {name!r} is not a list")
        for part in value:
            require_form(part, form[0], name)
    elif not isinstance(value, Mapping):
        raise no_answer(f"its {name!r} is not an object")
    else:
        members: Mapping[str, AnswerForm] = (
            dict.fromkeys(value, form.form) if isinstance(form, Each) else form
        )
        for key in members.keys() & value.keys():
            require_form(value[key], members[key], key)


_COUNT: Final[AnswerForm] = {"adapter": WHOLE, "base": WHOLE, "asked": WHOLE, "kept": WHOLE}
_LONGEST: Final[AnswerForm] = {"longest_tokens": Maybe(WHOLE)}
_EXAMPLES: Final[AnswerForm] = [{"question": TEXT, "answer": TEXT}]
_PUBLICATION: Final[AnswerForm] = {
    "cid": TEXT,
    "offer": Maybe({"model": TEXT}),
    "state": TEXT,
    "detail": TEXT,
    "code": TEXT,
}
_RESULT: Final[AnswerForm] = {
    "metrics": {
        "recall": Maybe(
            {
                "adapter": WHOLE,
                "base": WHOLE,
                "asked": WHOLE,
                "examples": {"right": _EXAMPLES, "wrong": _EXAMPLES},
            }
        ),
        "general": Maybe(_COUNT),
        "committed": Maybe(_COUNT),
        "memorisation": {"adapter": _LONGEST, "base": _LONGEST},
        "seconds": NUMBER,
    },
    "shares": [(WHOLE, WHOLE)],
    "weightsDigest": TEXT,
    "publication": Maybe(_PUBLICATION),
}
PROGRESS: Final[AnswerForm] = {
    "event": TEXT,
    "rows": WHOLE,
    "steps": Maybe(WHOLE),
    "step": Maybe(WHOLE),
    "loss": NUMBER,
    "right": WHOLE,
    "asked": WHOLE,
    "what": TEXT,
    "state": TEXT,
    "error": Maybe(TEXT),
    "result": _RESULT,
}
_TRAINING: Final[dict[str, AnswerForm]] = {
    "id": TEXT,
    "state": TEXT,
    "request": {"name": TEXT},
    "progress": PROGRESS,
    "result": _RESULT,
    "error": Maybe(TEXT),
    "createdAt": WHOLE,
}
_PLAN: Final[dict[str, AnswerForm]] = {
    "estimate": {
        "rows": WHOLE,
        "held_out_rows": WHOLE,
        "steps": WHOLE,
        "tokens_a_step": WHOLE,
        "seconds": NUMBER,
    },
    "settings": {"probes": WHOLE, "device": TEXT},
    "memory": Maybe({"host": Maybe(Each(WHOLE)), "device": Maybe(Each(WHOLE))}),
    "fees_units": Each(AMOUNT),
}
_NOTICE: Final[dict[str, AnswerForm]] = {
    "view": {
        "noticeId": WHOLE,
        "contentId": Maybe(WHOLE),
        "adapterId": Maybe(WHOLE),
        "kind": TEXT,
        "state": TEXT,
        "standing": FLAG,
        "receivedAt": WHOLE,
        "effectiveAt": WHOLE,
        "answeredAt": WHOLE,
        "reason": TEXT,
    },
    "notifier": TEXT,
    "contact": TEXT,
    "statement": TEXT,
    "evidenceHash": TEXT,
}
_OFFER: Final[AnswerForm] = {
    "adapterId": WHOLE,
    "model": TEXT,
    "promptPrice": AMOUNT,
    "completionPrice": AMOUNT,
}
_SENT: Final[AnswerForm] = {
    "gas_used": WHOLE,
    "events": [{"name": TEXT, "args": {"paid": AMOUNT}}],
    "hash": TEXT,
    "serves": FLAG,
    "servesUntil": WHOLE,
}
# By the method and the first word of the path; the longest that fits counts.
FORMS: Final[dict[str, AnswerForm]] = {
    "GET /status": {
        "node": TEXT,
        "tokenDecimals": _WholeLeaf(MAX_DECIMALS),
        "failing": Each({"since": WHOLE, "error": TEXT}),
        "balance": AMOUNT,
        "owed": AMOUNT,
        "billed": AMOUNT,
        "unclaimed": AMOUNT,
        "channels": WHOLE,
        "receipts": WHOLE,
        "running": WHOLE,
        "openNotices": WHOLE,
        "adapters": [_OFFER],
        "trainings": [_TRAINING],
    },
    "POST /grants": {"content_id": WHOLE, "expires_at": AMOUNT, "live": FLAG},
    "POST /works": {"path": TEXT, "title": TEXT},
    "POST /publications": {
        "cid": TEXT,
        "adapter_id": Maybe(WHOLE),
        "detail": TEXT,
        "offer": Maybe({"model": TEXT}),
    },
    "POST /adapters": {"model": TEXT},
    "POST /adapters/permissions": _SENT,
    "GET /adapters": {
        "without": [WHOLE],
        "request": {"works": [{"contentId": WHOLE}]},
        "royaltyBps": WHOLE,
        "trainerBps": WHOLE,
    },
    "GET /trainings": {**_TRAINING, "trainings": [_TRAINING]},
    "DELETE /trainings": _TRAINING,
    "POST /trainings": {**_TRAINING, **_PLAN},
    "GET /notices": {**_NOTICE, "notices": [_NOTICE]},
    "POST /notices": _NOTICE,
    "POST /settle": {
        "settled": WHOLE,
        "dropped": WHOLE,
        "waiting": WHOLE,
        "claimed_units": AMOUNT,
        "transactions": [_SENT],
    },
    "GET /royalties": {"royalties": [{"adapterId": WHOLE, "owed": AMOUNT}]},
    "POST /distribute": _SENT,
}


def require_operators_form(method: str, path: str, value: object) -> None:
    """Raise NodeRefused if an answer has not the form that the operator's commands need."""
    asked = f"{method} {path}"
    known = [each for each in FORMS if asked == each or asked.startswith((each + "/", each + "?"))]
    if known:
        require_form(value, FORMS[max(known, key=len)])
