"""Make the HTTP application: its routes, and the steps that are the same for every request.

Each request gets an id, size limits, a log line and a count in the metrics, and each error becomes
an answer. The handlers do the rest.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from viz.api import payments, unpaid_help
from viz.api.access import OPERATOR_PATH, is_operator
from viz.api.client_address import FORWARDED_HEADER, PROXIES
from viz.api.connections.server import TOO_LARGE, HttpRunner, name_server
from viz.api.context import (
    LIMITS,
    LOGINS,
    LOOKS,
    PARTS,
    PAYMENTS,
    QUESTIONS,
    REQUEST_ID,
    RUNNING,
    STOPPING,
    ApiLimits,
    NodeContext,
    send,
)
from viz.api.gateway import gateway
from viz.api.market import (
    contents,
    custody,
    licenses,
    listings,
    market,
    notices,
    own_offers,
    owners,
    provenance,
    receipts,
)
from viz.api.monitoring import health
from viz.api.monitoring.metrics import METRICS, Metrics
from viz.api.openai import routes as openai
from viz.api.openai.named_requests import NAMED, NamedRequests
from viz.api.openai.repeats import KEY_HEADER
from viz.api.operator import announcement
from viz.api.operator import commands as operator
from viz.api.problems import ID_HEADER, http_problem, opaque, problem
from viz.api.rate_limit import Looks, RateLimit
from viz.errors import InvalidRequest, VizError

# A voucher of 255 lines does not fit into aiohttp's default limit of 8 KiB.
MAX_HEADER_BYTES: Final = 32 * 1024
ALL_HEADER_BYTES: Final = 64 * 1024
# The values of these headers are hashed, stored or compared. That fails with bytes that are not
# text.
_READ_HEADERS: Final = ("Authorization", KEY_HEADER)
_log = structlog.get_logger()


class HeadersTooLarge(web.HTTPClientError):
    """Refuse headers that are too large together, even if each one is within its limit."""

    status_code = 431


def create_app(parts: NodeContext, limits: ApiLimits | None = None) -> web.Application:
    """Return the application over ``parts``; the caller starts it and cleans it up."""
    bounds = limits or ApiLimits()
    app = web.Application(
        client_max_size=bounds.max_body_bytes, middlewares=[_identify, _answer_errors]
    )
    app[PARTS] = parts
    app[LIMITS] = bounds
    app[METRICS] = Metrics(parts)
    for budget in (QUESTIONS, PAYMENTS, LOGINS):
        app[budget] = RateLimit(parts.clock, bounds.questions_per_minute)
    app[LOOKS] = Looks(parts.clock)
    app[PROXIES] = bounds.trusted_proxies
    app[FORWARDED_HEADER] = bounds.forwarded_header
    app[RUNNING] = set()
    app[NAMED] = NamedRequests(parts.clock)
    app[STOPPING] = asyncio.Event()
    for part in (
        openai,
        payments,
        receipts,
        own_offers,
        contents,
        notices,
        owners,
        licenses,
        provenance,
        listings,
        market,
        announcement,
        custody,
        gateway,
        health,
        operator,
        unpaid_help,
    ):
        app.add_routes(part.routes())
    app.on_response_prepare.append(name_server)
    app.on_shutdown.append(_stop_streams)
    app.on_cleanup.append(_await_bills)
    return app


def create_runner(app: web.Application, *, shutdown_timeout_s: float) -> web.AppRunner:
    """Return the runner of ``app``; it closes a connection that sends no full request in time."""
    return HttpRunner(
        app,
        shutdown_timeout=shutdown_timeout_s,
        keepalive_timeout=app[LIMITS].client_timeout_s,
        max_header_bytes=MAX_HEADER_BYTES,
        auto_decompress=False,
    )


async def _stop_streams(app: web.Application) -> None:
    app[STOPPING].set()


async def _await_bills(app: web.Application) -> None:
    # aiohttp cancels handlers and does not wait for them, but a handler writes its bill at its end.
    try:
        await app[PARTS].serving.drain()
    except TimeoutError:
        _log.error("some generations did not end in time: what they sent last is not billed")


@web.middleware
async def _identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request an id, log its end, and count it."""
    request_id = secrets.token_hex(8)
    request[REQUEST_ID] = request_id
    started = time.monotonic()
    # aiohttp runs each request in a task of its own, so what the handlers bind ends with the task.
    with (
        request.app[PARTS].ledger.answering(),
        structlog.contextvars.bound_contextvars(request_id=request_id),
    ):
        response = await handler(request)
        took_s = time.monotonic() - started
        route = request.match_info.route.resource
        path = route.canonical if route is not None else "unknown"
        request.app[METRICS].request(request.method, path, response.status, took_s)
        _log.info(
            "request",
            method=request.method,
            path=path,
            status=response.status,
            took_ms=round(took_s * 1000, 1),
        )
        if not response.prepared:
            response.headers[ID_HEADER] = request_id
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
            await _send_whole(request, response)
        return response


async def _send_whole(request: web.Request, response: web.StreamResponse) -> None:
    """Send a complete answer; cut off a client that reads too slowly, and raise nothing."""
    with suppress(ConnectionResetError):
        await response.prepare(request)
        await send(request, response, b"", last=True)


def _check_headers(request: web.Request) -> None:
    if sum(len(name) + len(value) for name, value in request.raw_headers) > ALL_HEADER_BYTES:
        raise HeadersTooLarge(reason=TOO_LARGE)
    for name in _READ_HEADERS:
        if not request.headers.get(name, "").isascii():
            raise InvalidRequest(f"the header {name} may hold ASCII characters only")


def _is_operators(request: web.Request) -> bool:
    return request.path.startswith(OPERATOR_PATH) and is_operator(request)


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer with an error document."""
    request_id = request[REQUEST_ID]
    try:
        _check_headers(request)
        return await handler(request)
    except VizError as error:
        _log.info("refused", code=error.code, reason=error.detail)
        if error.status >= 500:
            # An error with a code needs no stack trace. The class of its cause is enough.
            cause = type(error.__cause__).__name__ if error.__cause__ else None
            _log.warning("failed", code=error.code, reason=error.detail, cause=cause)
        return problem(error, request_id, is_operator=_is_operators(request))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return http_problem(error.status, error.reason, request_id, error.headers)
    except web.RequestPayloadError:
        return http_problem(400, "the body cannot be read: it is not framed as HTTP", request_id)
    except ConnectionResetError:
        _log.info("the client left")
        return http_problem(499, "the client left", request_id)
    except Exception as error:  # noqa: BLE001  a client must not see the details of a bug
        _log.error("unexpected", exc_info=error)
        return opaque(request_id)
