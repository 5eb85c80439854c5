"""Convert the body of a refused request to a typed error of ``viz.errors``.

Reads problem documents (RFC 9457) and OpenAI's error objects; a node's refusal contains both.
Imports only the errors, because short commands need this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from viz.errors import NodeRefused, VizError, class_of

MAX_DETAIL_CHARS: Final = 2_048
# The members of every problem; the others are the error's own extensions.
_FRAME: Final = frozenset({"type", "title", "status", "detail", "code", "message", "instance"})


def error_of(body: object, status: int, *, unknown: type[VizError] = NodeRefused) -> VizError:
    """Return the error in a refused request's body, with its message and its extensions.

    ``unknown`` is the class for a code of another version, or for a body that is not a problem.
    """
    members = body if isinstance(body, Mapping) else {}
    if isinstance(members.get("error"), Mapping):
        members = members["error"]
    said = members.get("detail") or members.get("message") or f"HTTP {status}"
    extensions: dict[str, Any] = {
        str(key): value for key, value in members.items() if key not in _FRAME
    }
    kind = class_of(members.get("code")) or unknown
    error = kind(_printable(str(said)[:MAX_DETAIL_CHARS]), **extensions)
    error.answered = True
    return error


def _printable(said: str) -> str:
    """Return a stranger's text without characters that control a terminal."""
    spaced = (" " if letter.isspace() else letter for letter in said)
    return "".join(letter for letter in spaced if letter.isprintable())
