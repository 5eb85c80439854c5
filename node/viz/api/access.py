"""Tell by the Authorization header whether a request is from the operator or a buyer."""

from __future__ import annotations

import hmac
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from viz.api.client_address import is_here
from viz.api.context import parts_of
from viz.errors import AccessTokenInvalid
from viz.protocol.credential import bearer_of_header
from viz.services.payments.access_tokens import is_ours

OPERATOR_PATH: Final = "/operator/v1"


def bears_our_token(request: web.Request) -> bool:
    """Return whether the request carries a token in the form of a node's access token.

    OpenAI's clients always send some key, even if none was set. Such a key is not a token.
    """
    try:
        return is_ours(bearer_of_header(request.headers.get("Authorization", "")))
    except AccessTokenInvalid:
        return False


def has_operator_token(request: web.Request) -> bool:
    """Return whether the request carries the operator's token; compare in constant time."""
    expected = "Bearer " + parts_of(request).terms.operator_token
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def for_operator(handler: Handler) -> Handler:
    """Restrict a handler to the operator; anybody else gets AccessTokenInvalid."""

    async def guard(request: web.Request) -> web.StreamResponse:
        if not is_operator(request):
            raise AccessTokenInvalid(
                "this route is for the operator: call it from this machine, with the token in "
                "operator.token"
            )
        return await handler(request)

    return guard


def is_operator(request: web.Request) -> bool:
    """Return whether the request carries the operator's token and comes from this machine."""
    return is_here(request) and has_operator_token(request)
