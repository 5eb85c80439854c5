"""The typed error behind a refusal's body: the one way back from a problem to ``viz.errors``.

Owns the reading of problem documents (RFC 9457) and of OpenAI's error objects, which a node's
refusal holds both. Stays free of every import but the errors, since short commands need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from viz.errors import NodeRefused, VizError, class_of

MAX_DETAIL_CHARS: Final = 2_048
# What every problem has; the others are the error's own extensions.
_FRAME: Final = frozenset({"type", "title", "status", "detail", "code", "message", "instance"})


def error_of(body: object, status: int, *, unknown: type[VizError] = NodeRefused) -> VizError:
    """Return the error that a refused request's body names, with its words and its extensions.

    ``unknown`` is the class for a code of another version, or for a body that is no problem.
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
    """Return a stranger's words without what would command the terminal they end on."""
    spaced = (" " if letter.isspace() else letter for letter in said)
    return "".join(letter for letter in spaced if letter.isprintable())
