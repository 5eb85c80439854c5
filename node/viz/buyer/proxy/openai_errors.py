"""Write refusals in the form that OpenAI's clients read.

Owns the type, code and parameter that a program is told for each of Viz's errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from viz.buyer.asking import costs_in
from viz.errors import PromptTooLong, VizError
from viz.protocol.problems import openai_type

CONTEXT_CODE: Final = "context_length_exceeded"  # programs that see it shorten their prompt
MAX_PARAM_CHARS: Final = 64


def problem(error: VizError) -> web.Response:
    """Return the response for one of Viz's own errors."""
    status = 400 if isinstance(error, PromptTooLong) else error.status
    return response(status, error_body(error))


def error_body(error: VizError) -> dict[str, Any]:
    """Return the error object for one of Viz's own errors, with the parameter that it names.

    ``viz`` beside it has what was paid before an answer ended (``costs_in``).
    """
    given = error.extensions.get("param")
    param = given[:MAX_PARAM_CHARS] if isinstance(given, str) else None
    code = CONTEXT_CODE if isinstance(error, PromptTooLong) else error.code
    said = body(error.detail, openai_type(type(error)), code, param)
    return said | ({"viz": costs} if (costs := costs_in(error)) else {})


def refusal(
    status: int, message: str, code: str, kind: str = "invalid_request_error", **headers: str
) -> web.Response:
    """Return the response for a refusal that has no error class: routes, keys, web pages."""
    return response(status, body(message, kind, code), headers)


def response(
    status: int, content: dict[str, Any], headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error response; it tells the client not to retry if a retry cannot help."""
    # OpenAI's clients retry these statuses by themselves, and would get the same response.
    final = {"X-Should-Retry": "false"} if status in (409, 429) or status >= 500 else {}
    return web.json_response(content, status=status, headers={**final, **(headers or {})})


def body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
