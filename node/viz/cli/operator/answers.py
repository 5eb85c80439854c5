"""Check the form of what the running node answers to its operator's commands, in one place.

Commands print these answers and calculate with them. The node may be of another version, or
another program may have its socket or port: then one sentence says so, and no command fails within
its table.

Owns the form of each answer, as far as commands use it, as schemas of pydantic's core. A member
that is absent is not checked here: an ``AnswerObject`` tells of it when it is looked up.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from pydantic import ValidationError
from pydantic_core import CoreSchema, SchemaValidator
from pydantic_core.core_schema import (
    bool_schema,
    dict_schema,
    float_schema,
    int_schema,
    list_schema,
    nullable_schema,
    str_schema,
    tuple_positional_schema,
    typed_dict_field,
    typed_dict_schema,
    union_schema,
)

from viz.protocol.answers import no_answer

_MOST: Final = 10**18
_TEXT: Final = str_schema(strict=True)
_FLAG: Final = bool_schema(strict=True)
_NUMBER: Final = float_schema(strict=True, ge=-_MOST, le=_MOST)
_WHOLE: Final = int_schema(strict=True, ge=0, le=10**78)
# More decimals than this have no power of ten within 256 bits.
_DECIMALS: Final = int_schema(strict=True, ge=0, le=77)
# Base units: digits as text, or a whole number.
_AMOUNT: Final = union_schema([str_schema(strict=True, pattern="^[0-9]{1,78}$"), _WHOLE])


def _members(forms: dict[str, CoreSchema]) -> CoreSchema:
    """Return the form of an object by the forms of the members that commands use."""
    return typed_dict_schema(
        {name: typed_dict_field(form, required=False) for name, form in forms.items()}
    )


_COUNT: Final = _members({"adapter": _WHOLE, "base": _WHOLE, "asked": _WHOLE, "kept": _WHOLE})
_LONGEST: Final = _members({"longest_tokens": nullable_schema(_WHOLE)})
_EXAMPLES: Final = list_schema(_members({"question": _TEXT, "answer": _TEXT}))
_PUBLICATION: Final = _members(
    {
        "cid": _TEXT,
        "offer": nullable_schema(_members({"model": _TEXT})),
        "state": _TEXT,
        "detail": _TEXT,
        "code": _TEXT,
    }
)
_RESULT: Final = _members(
    {
        "metrics": _members(
            {
                "recall": nullable_schema(
                    _members(
                        {
                            "adapter": _WHOLE,
                            "base": _WHOLE,
                            "asked": _WHOLE,
                            "examples": _members({"right": _EXAMPLES, "wrong": _EXAMPLES}),
                        }
                    )
                ),
                "general": nullable_schema(_COUNT),
                "committed": nullable_schema(_COUNT),
                "memorisation": _members({"adapter": _LONGEST, "base": _LONGEST}),
                "seconds": _NUMBER,
            }
        ),
        "shares": list_schema(tuple_positional_schema([_WHOLE, _WHOLE])),
        "weightsDigest": _TEXT,
        "publication": nullable_schema(_PUBLICATION),
    }
)
_PROGRESS: Final = _members(
    {
        "event": _TEXT,
        "rows": _WHOLE,
        "steps": nullable_schema(_WHOLE),
        "step": nullable_schema(_WHOLE),
        "loss": _NUMBER,
        "right": _WHOLE,
        "asked": _WHOLE,
        "what": _TEXT,
        "state": _TEXT,
        "error": nullable_schema(_TEXT),
        "result": _RESULT,
    }
)
_TRAINING: Final[dict[str, CoreSchema]] = {
    "id": _TEXT,
    "state": _TEXT,
    "request": _members({"name": _TEXT}),
    "progress": _PROGRESS,
    "result": _RESULT,
    "error": nullable_schema(_TEXT),
    "createdAt": _WHOLE,
}
_PLAN: Final[dict[str, CoreSchema]] = {
    "estimate": _members(
        {
            "rows": _WHOLE,
            "held_out_rows": _WHOLE,
            "steps": _WHOLE,
            "tokens_a_step": _WHOLE,
            "seconds": _NUMBER,
        }
    ),
    "settings": _members({"probes": _WHOLE, "device": _TEXT}),
    "memory": nullable_schema(
        _members(
            {
                "host": nullable_schema(dict_schema(values_schema=_WHOLE)),
                "device": nullable_schema(dict_schema(values_schema=_WHOLE)),
            }
        )
    ),
    "fees_units": dict_schema(values_schema=_AMOUNT),
}
_NOTICE_VIEW: Final = _members(
    {
        "noticeId": _WHOLE,
        "contentId": nullable_schema(_WHOLE),
        "adapterId": nullable_schema(_WHOLE),
        "kind": _TEXT,
        "state": _TEXT,
        "standing": _FLAG,
        "receivedAt": _WHOLE,
        "effectiveAt": _WHOLE,
        "answeredAt": _WHOLE,
        "reason": _TEXT,
    }
)
_NOTICE: Final[dict[str, CoreSchema]] = {
    "view": _NOTICE_VIEW,
    "notifier": _TEXT,
    "contact": _TEXT,
    "statement": _TEXT,
    "evidenceHash": _TEXT,
}
_OFFER: Final = _members(
    {"adapterId": _WHOLE, "model": _TEXT, "promptPrice": _AMOUNT, "completionPrice": _AMOUNT}
)
_SENT: Final = _members(
    {
        "gas_used": _WHOLE,
        "events": list_schema(_members({"name": _TEXT, "args": _members({"paid": _AMOUNT})})),
        "hash": nullable_schema(_TEXT),
        "serves": _FLAG,
        "servesUntil": _WHOLE,
    }
)
_EVENT: Final = "event"
# By the method and the first word of the path; the longest that fits counts.
FORMS: Final[dict[str, CoreSchema]] = {
    "GET /status": _members(
        {
            "node": _TEXT,
            "tokenDecimals": _DECIMALS,
            "failing": dict_schema(values_schema=_members({"since": _WHOLE, "error": _TEXT})),
            "balance": _AMOUNT,
            "collectable": _AMOUNT,
            "billed": _AMOUNT,
            "unclaimed": _AMOUNT,
            "channels": _WHOLE,
            "receipts": _WHOLE,
            "running": _WHOLE,
            "openNotices": _WHOLE,
            "adapters": list_schema(_OFFER),
            "trainings": list_schema(_members(_TRAINING)),
        }
    ),
    "POST /grants": _members({"content_id": _WHOLE, "expires_at": _AMOUNT, "live": _FLAG}),
    "GET /works": _members(
        {"notices": list_schema(_members({"url": _TEXT, "view": _NOTICE_VIEW}))}
    ),
    "POST /works": _members({"path": _TEXT, "title": _TEXT}),
    "POST /publications": _members(
        {
            "cid": _TEXT,
            "adapter_id": nullable_schema(_WHOLE),
            "detail": _TEXT,
            "offer": nullable_schema(_members({"model": _TEXT})),
        }
    ),
    "POST /adapters": _members({"model": _TEXT}),
    "POST /adapters/permissions": _SENT,
    "GET /adapters": _members(
        {
            "without": list_schema(_WHOLE),
            "request": _members({"works": list_schema(_members({"contentId": _WHOLE}))}),
            "royaltyBps": _WHOLE,
            "trainerBps": _WHOLE,
        }
    ),
    "GET /trainings": _members({**_TRAINING, "trainings": list_schema(_members(_TRAINING))}),
    "DELETE /trainings": _members(_TRAINING),
    "POST /trainings": _members({**_TRAINING, **_PLAN}),
    "GET /notices": _members({**_NOTICE, "notices": list_schema(_members(_NOTICE))}),
    "POST /notices": _members(_NOTICE),
    "POST /settle": _members(
        {
            "settled": _WHOLE,
            "dropped": _WHOLE,
            "waiting": _WHOLE,
            "claimed_units": _AMOUNT,
            "transactions": list_schema(_SENT),
        }
    ),
    "GET /royalties": _members(
        {"royalties": list_schema(_members({"adapterId": _WHOLE, "undistributed": _AMOUNT}))}
    ),
    "POST /distribute": _SENT,
}


def require_operators_form(method: str, path: str, value: object) -> None:
    """Raise NodeRefused if an answer has not the form that the operator's commands need."""
    asked = f"{method} {path}"
    known = [each for each in FORMS if asked == each or asked.startswith((each + "/", each + "?"))]
    if known:
        _require(max(known, key=len), value)


def require_progress(value: object) -> None:
    """Raise NodeRefused if an event of a training run has not the form that commands show."""
    _require(_EVENT, value)


def _require(name: str, value: object) -> None:
    try:
        _validator(name).validate_python(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, wrong["loc"])) or "the answer"
        raise no_answer(f"{place!r} in it: {wrong['msg']}") from error


@cache
def _validator(name: str) -> SchemaValidator:
    return SchemaValidator(_PROGRESS if name == _EVENT else FORMS[name])
