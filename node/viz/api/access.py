"""Whose a request is, by what it bears: the operator's, a buyer's, or another service's key."""

from __future__ import annotations

import hmac
from typing import Final

from aiohttp import web

from viz.api.client_address import is_here
from viz.api.context import parts_of
from viz.errors import AccessTokenInvalid
from viz.protocol.credential import bearer_of_header
from viz.services.payments.access_tokens import is_ours

OPERATOR_PATH: Final = "/operator/v1"


def bears_our_token(request: web.Request) -> bool:
    """Return whether the request bears what may be an access token of a node.

    OpenAI's clients send a key with every request, whether or not they were given one.
    """
    try:
        return is_ours(bearer_of_header(request.headers.get("Authorization", "")))
    except AccessTokenInvalid:
        return False


def has_operator_token(request: web.Request) -> bool:
    """Return whether the request bears the operator's token."""
    expected = "Bearer " + parts_of(request).terms.operator_token
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def is_operator(request: web.Request) -> bool:
    """Return whether the operator asks, on this machine."""
    return is_here(request) and has_operator_token(request)
