"""Convert errors to HTTP answers: RFC 9457 problems with OpenAI's ``error`` object inside.

Owns the bodies and headers of error answers. Invariants:

- Every error answer has a stable ``code``.
- An error that was not raised on purpose becomes an opaque 500 that tells only a request id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from viz.errors import (
    BlobDenied,
    BlobTooLarge,
    BooksMismatch,
    ChainError,
    ChainMismatch,
    ChainUnreachable,
    ConfigError,
    CustodyFull,
    EngineError,
    EngineOverloaded,
    InvalidAdapterFile,
    KeyUnknown,
    NotAcceptable,
    RangeNotSatisfiable,
    RelayBusy,
    StorageBusy,
    StorageError,
    StoreConflict,
    StoreError,
    TooManyQuestions,
    VizError,
)
from viz.protocol.payment import Challenge
from viz.protocol.problems import CODE_URI, openai_type

PROBLEM_TYPE: Final = "application/problem+json"
ID_HEADER: Final = "X-Request-Id"

_RETRY_LATER: Final = (EngineOverloaded, RelayBusy, StorageBusy, TooManyQuestions)
_OF_A_BODY: Final = frozenset({"content-type", "content-length", "content-encoding"})
_HIDDEN: Final = frozenset({"quote", "need", "challenge"})
# Errors whose text names what is behind this node: addresses, paths, messages of other programs.
_INSIDE: Final = (ChainUnreachable, ChainMismatch, StorageError, StoreError, EngineError)
# Of these kinds, what our own words say about the request alone.
_TRUE_OF_A_REQUEST: Final = (
    StoreConflict,
    BooksMismatch,
    EngineOverloaded,
    InvalidAdapterFile,
    BlobDenied,
    BlobTooLarge,
    KeyUnknown,
    CustodyFull,
)
_PRIVATE: Final = (ChainError, StorageError, StoreError, EngineError, ConfigError)
_ADDRESS: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|/(?:ip4|ip6|dns[46]?|dnsaddr|unix)/)[^\s,;)'\"]*[^\s,;:.)'\"]"
    r"|(?<![\w.])/(?:[\w.@-]+/)+[\w.@-]+"
    r"|(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}|localhost)(?::\d+)?(?![\w.])"
    r"|\[?(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f.]*(?:%\w+)?(?![\w:])\]?(?::\d+)?"
    r"|(?<![\w.])[\w-]+(?:\.[\w-]+)*:\d{2,5}(?![\w.])",
    re.IGNORECASE,
)


def for_strangers(error: VizError) -> str:
    """Return the text of an error for a stranger, without addresses and paths of this node."""
    if error.quotes:
        return "what is behind this node refused it: try again in a while, or use another node"
    if isinstance(error, _INSIDE) and not isinstance(error, _TRUE_OF_A_REQUEST):
        known = f"{error.title[0].lower()}{error.title[1:]}"
        return known if error.status < 500 else f"{known} now: try again in a while"
    if isinstance(error, _PRIVATE):
        return _ADDRESS.sub("(not told)", error.detail)
    return error.detail


def problem(error: VizError, request_id: str, *, is_operator: bool = False) -> web.Response:
    """Return the answer for an error that was raised on purpose."""
    extra = {key: value for key, value in error.extensions.items() if key not in _HIDDEN}
    headers: dict[str, str] = {}
    challenge = error.extensions.get("challenge")
    if isinstance(challenge, Challenge):
        headers["WWW-Authenticate"] = challenge.to_header()
    elif error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.extensions['sizeBytes']}"
    if isinstance(error, NotAcceptable):
        headers["Vary"] = "Accept"
    if isinstance(error, _RETRY_LATER):
        headers["Retry-After"] = str(error.extensions.get("retryAfter", 1))
    elif error.status in (409, 429) or error.status >= 500:
        # OpenAI's clients would repeat these requests by themselves, and get the same answer.
        headers["X-Should-Retry"] = "false"
    body = problem_body(error, request_id, extra, is_operator=is_operator)
    return web.json_response(
        body, status=error.status, headers=headers, content_type=PROBLEM_TYPE, dumps=_dumps
    )


def problem_body(
    error: VizError,
    request_id: str,
    extra: Mapping[str, Any] | None = None,
    *,
    is_operator: bool = False,
) -> dict[str, Any]:
    """Return the members of the problem document, with OpenAI's ``error`` object."""
    more = dict(extra or {})
    detail = error.detail if is_operator else for_strangers(error)
    return {
        **more,
        "type": CODE_URI + error.code,
        "title": error.title,
        "status": error.status,
        "detail": detail,
        "code": error.code,
        "instance": request_id,
        "error": {
            **more,
            "message": detail,
            "type": openai_type(type(error)),
            "code": error.code,
            "param": more.get("param"),
        },
    }


def http_problem(
    status: int, reason: str, request_id: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return the answer for an error of HTTP itself: an unknown path, a body that is too large.

    ``headers`` are the headers that the error needs (a 405 must say which methods are allowed).
    """
    kept = {
        name: value for name, value in (headers or {}).items() if name.lower() not in _OF_A_BODY
    }
    code = f"http-{status}"
    body = {
        "type": CODE_URI + code,
        "title": reason,
        "status": status,
        "detail": reason,
        "code": code,
        "instance": request_id,
        "error": {"message": reason, "type": "invalid_request_error", "code": code, "param": None},
    }
    return web.json_response(body, status=status, content_type=PROBLEM_TYPE, headers=kept)


def opaque(request_id: str) -> web.Response:
    """Return the answer for a bug: only the id under which the operator finds it in the log."""
    detail = f"an unexpected error; the operator finds it in the log under {request_id}"
    body = {
        "type": CODE_URI + "internal",
        "title": "Something went wrong in the node",
        "status": 500,
        "detail": detail,
        "code": "internal",
        "instance": request_id,
        "error": {"message": detail, "type": "api_error", "code": "internal", "param": None},
    }
    return web.json_response(
        body, status=500, content_type=PROBLEM_TYPE, headers={"X-Should-Retry": "false"}
    )


def _dumps(value: Any) -> str:
    return json.dumps(value, default=str)
