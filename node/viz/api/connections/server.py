"""Answer requests that aiohttp refuses by itself, in the same form as all other errors.

aiohttp answers malformed requests before the application sees them. This module replaces these
answers and aiohttp's log lines. Invariants:

- No answer repeats what the client sent.
- Malformed bytes from a stranger leave one short line in the log, and no stack trace.
- No answer names the versions of the programs that run here.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from viz.api.problems import ID_HEADER, http_problem, opaque

TOO_LARGE: Final = "the headers are too many or too long: send fewer, or shorter ones"
SERVER: Final = "viz"
_EXPECTED: Final = "the header Expect may only ask for 100-continue"
_MALFORMED: Final = "this cannot be read as an HTTP request"
_log = structlog.get_logger()


class HttpRunner(web.AppRunner):
    """Serve an application through ``HttpProtocol``."""

    def __init__(self, app: web.Application, *, max_header_bytes: int, **options: Any) -> None:
        """Make the runner; ``options`` are passed to aiohttp."""
        super().__init__(app, max_field_size=max_header_bytes, access_log=None, **options)

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        server.__class__ = _Server
        server.request_handler = _in_our_form(server.request_handler)
        return server


def _in_our_form(
    handler: Callable[[BaseRequest], Awaitable[web.StreamResponse]],
) -> Callable[[BaseRequest], Awaitable[web.StreamResponse]]:
    """Wrap ``handler``: if aiohttp refuses a request before the application, answer our way."""

    async def handle(request: BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            request_id = secrets.token_hex(8)
            said = _EXPECTED if error.status == 417 else error.reason
            _log.info("refused by HTTP", request_id=request_id, status=error.status)
            return _named(http_problem(error.status, said, request_id, error.headers), request_id)

    return handle


async def name_server(request: web.Request, response: web.StreamResponse) -> None:
    """Set the Server header before an answer begins; else aiohttp sets one with its version."""
    response.headers["Server"] = SERVER


def _named(response: web.Response, request_id: str) -> web.Response:
    response.headers["Server"], response.headers[ID_HEADER] = SERVER, request_id
    response.force_close()
    return response


class _Server(Server):
    def __call__(self) -> RequestHandler:
        return HttpProtocol(self, loop=self._loop, **self._kwargs)


class HttpProtocol(RequestHandler):
    """Handle one connection as aiohttp does, with our error answers and log lines."""

    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a failure outside the application; close the connection then."""
        request_id = secrets.token_hex(8)
        if isinstance(exc, HttpProcessingError) or status == 400:
            said, status = (TOO_LARGE, 431) if _is_too_large(exc) else (_MALFORMED, 400)
            _log.info("not HTTP", request_id=request_id, status=status, reason=type(exc).__name__)
            response = http_problem(status, said, request_id)
        else:
            _log.error("unexpected, outside the application", request_id=request_id, exc_info=exc)
            response = opaque(request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, and another cannot be sent")
        return _named(response, request_id)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp reports, as one of our log events."""
        _log.error("unexpected, in a connection", reason=str(args[0]), exc_info=kw.get("exc_info"))


def _is_too_large(error: BaseException | None) -> bool:
    if isinstance(error, LineTooLong):
        return True
    return isinstance(error, HttpProcessingError) and error.message.startswith("Too many headers")
