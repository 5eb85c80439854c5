"""Convert the body of a refused request to a typed error of ``viz.errors``.

Reads problem documents (RFC 9457) and OpenAI's error objects; a node's refusal contains both.
Imports only the errors, because short commands need this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from viz.errors import (
    AccessTokenInvalid,
    ChainError,
    EngineError,
    EngineOverloaded,
    InputError,
    LicenseError,
    NodeRefused,
    NodeUnreachable,
    PaymentError,
    StorageError,
    StoreError,
    UnknownAdapter,
    UnknownModel,
    VizError,
)

# Begins the ``type`` of every problem that a node answers.
CODE_URI: Final = "urn:viz:problem:"
MAX_DETAIL_CHARS: Final = 2_048
# What a server says of the moment, and not of the address: a timeout, and too many requests.
_PASSING: Final = frozenset({408, 425, 429})
# OpenAI's clients tell errors apart by this word. The first class that matches gives it.
_OPENAI_TYPES: Final[tuple[tuple[type[VizError], str], ...]] = (
    (AccessTokenInvalid, "authentication_error"),
    (UnknownModel, "not_found_error"),
    (UnknownAdapter, "not_found_error"),
    (PaymentError, "payment_error"),
    (LicenseError, "permission_error"),
    (InputError, "invalid_request_error"),
    (EngineOverloaded, "overloaded_error"),
    (EngineError, "api_error"),
    (ChainError, "api_error"),
    (StorageError, "api_error"),
    (StoreError, "api_error"),
)
# The members of every problem; the others are the error's own extensions.
_FRAME: Final = frozenset({"type", "title", "status", "detail", "code", "message", "instance"})


def class_of(code: object) -> type[VizError] | None:
    """Return the class with that code, as a problem body names it; None for an unknown one."""
    open_classes: list[type[VizError]] = [VizError]
    while open_classes:
        found = open_classes.pop()
        if found.code == code:
            return found
        open_classes += found.__subclasses__()
    return None


def openai_type(kind: type[VizError]) -> str:
    """Return the ``type`` in OpenAI's error object for this class of errors."""
    return next((name for each, name in _OPENAI_TYPES if issubclass(kind, each)), "api_error")


def error_of(body: object, status: int, *, unknown: type[VizError] = NodeRefused) -> VizError:
    """Return the error in a refused request's body, with its message and its extensions.

    ``unknown`` is the class for a code of another version, or for a body that is not a problem.
    An error status whose body is no node's problem comes from a server in front of the node: it
    does not tell what the node did with the request, so it is NodeUnreachable. ``status`` is 200
    for an error that came in another way than as a status of HTTP.
    """
    members = body if isinstance(body, Mapping) else {}
    is_problem = str(members.get("type", "")).startswith(CODE_URI)
    if isinstance(members.get("error"), Mapping):
        members = members["error"]
    known = class_of(members.get("code"))
    if status != 200 and not (is_problem or known):
        return page_of_another(status)
    said = members.get("detail") or members.get("message") or f"HTTP {status}"
    extensions: dict[str, Any] = {
        str(key): value for key, value in members.items() if key not in _FRAME
    }
    kind = known or unknown
    error = kind(_printable(str(said)[:MAX_DETAIL_CHARS]), **extensions)
    error.answered = True
    return error


def told_by(error: VizError, who: str) -> VizError:
    """Return the error; if another side answered it, say in front of its words who it was.

    Without that a stranger's words would read as this program's own.
    """
    if error.answered and not error.detail.startswith(who):
        error.detail = f"{who} says: {error.detail}"
        error.args = (error.detail,)
    return error


def page_of_another(status: int) -> NodeUnreachable:
    """Return the error for a page of a server in front of the node, which is no word of the node.

    The node may have got the request all the same.
    """
    remedy = (
        "the node may be down or too slow; ask again in a while"
        if status in _PASSING or status >= 500
        else "check the node's URL (a redirect is not followed), or ask its operator"
    )
    return NodeUnreachable(
        f"a server in front of the node answered {status}, and not the node: {remedy}"
    )


def _printable(said: str) -> str:
    """Return a stranger's text without characters that control a terminal."""
    spaced = (" " if letter.isspace() else letter for letter in said)
    return "".join(letter for letter in spaced if letter.isprintable())
