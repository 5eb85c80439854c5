"""A local OpenAI-compatible server that pays: any OpenAI tool works unmodified.

Owns the translation between an OpenAI client and ``BuyerClient``: models, streamed and whole
answers, errors. Does not decide what may be paid. Streams to the node always and assembles whole
answers here, so that money is signed step by step (THREATS 36).

Whoever reaches the proxy spends the buyer's money. It listens on loopback unless told otherwise,
and there refuses requests that a web page in a browser could forge (a foreign Host, or any Origin).
Beyond loopback it serves nobody without its key; with one, no other user of this machine either. A
program that leaves ends its answer: nothing is paid for what nobody reads.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiohttp import web

from viz.buyer.answer import PaidAnswer
from viz.buyer.arrival import Chunk
from viz.buyer.assemble import assemble, usage_of
from viz.buyer.client import BuyerClient
from viz.domain.payment import CHAT_PATH, COMPLETIONS_PATH, MODELS_PATH
from viz.domain.wire import parse_json
from viz.errors import ConfigError, InvalidRequest, PaymentError, VizError

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
SHUTDOWN_S: Final = 5.0
COST_HEADER: Final = "Viz-Cost-Units"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_CLIENT: Final = web.AppKey("client", BuyerClient)
_LOCAL: Final = web.AppKey("local", bool)
_KEY: Final = web.AppKey("key", str)
_log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_proxy(client: BuyerClient, *, local: bool = True, key: str = "") -> web.Application:
    """Return the proxy's application.

    ``local`` refuses what does not come from this machine; ``key`` is what programs must give as
    their OPENAI_API_KEY, empty for any.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
    app[_CLIENT] = client
    app[_LOCAL] = local
    app[_KEY] = key
    app.add_routes(
        [
            web.get(MODELS_PATH, _models),
            web.post(CHAT_PATH, _complete),
            web.post(COMPLETIONS_PATH, _complete),
        ]
    )
    return app


@asynccontextmanager
async def running_proxy(
    client: BuyerClient, *, host: str = "127.0.0.1", port: int = 0, key: str = ""
) -> AsyncIterator[str]:
    """Serve the proxy while the context lasts; yield its base URL, ``http://host:port/v1``.

    Raises ConfigError when the port is taken, and for a host beyond this machine without a key.
    """
    if host not in LOOPBACK and not key:
        raise ConfigError(
            f"whoever reaches {host}:{port} would spend this buyer's money: give programs a key "
            "with --api-key-file, or leave --host out"
        )
    app = create_proxy(client, local=host in LOOPBACK, key=key)
    # A program that gave up, and will ask again, must not be paid for twice.
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"the proxy cannot listen on {host}:{port} ({error.strerror}): choose another port"
            ) from error
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{bound}/v1"
    finally:
        await runner.cleanup()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        _check_local(request)
        if not _has_key(request):
            message = "this proxy pays for programs that give its key as their OPENAI_API_KEY"
            return _error_response(401, message, "invalid_request_error", "invalid_api_key")
        return await handler(request)
    except VizError as error:
        return _problem(error)
    except web.HTTPException as error:
        return _error_response(error.status, error.reason, "invalid_request_error", "http")
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception as error:  # noqa: BLE001  a bug leaves as an opaque 500, never as its text
        _log.error("unexpected, in the proxy", exc_info=error)
        return _error_response(500, "something went wrong in the proxy", "api_error", "viz-error")


def _check_local(request: web.Request) -> None:
    if not request.app[_LOCAL]:
        return
    name = request.url.host
    if name not in LOOPBACK or "Origin" in request.headers:
        raise InvalidRequest("this proxy pays for programs of this machine, not for web pages")


def _has_key(request: web.Request) -> bool:
    key = request.app[_KEY]
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return not key or hmac.compare_digest(given.encode("utf-8", "replace"), key.encode())


async def _models(request: web.Request) -> web.Response:
    info = await request.app[_CLIENT].refresh_info()
    data = [
        {"id": offer.model, "object": "model", "created": 0, "owned_by": info.node}
        | {"viz": offer.to_json()}
        for offer in info.adapters
    ]
    return web.json_response({"object": "list", "data": data})


async def _complete(request: web.Request) -> web.StreamResponse:
    body = parse_json(await request.read(), max_bytes=MAX_BODY_BYTES)
    wanted = body.pop("stream", False)
    options = body.pop("stream_options", None)
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    async with request.app[_CLIENT].ask(body, request.path) as answer:
        if wanted is True:
            return await _stream(request, answer, with_usage=with_usage)
        chunks = [chunk async for chunk in answer]
        headers = {COST_HEADER: str(answer.cost_units)}
        return web.json_response(assemble(chunks, answer), headers=headers)


async def _stream(
    request: web.Request, answer: PaidAnswer, *, with_usage: bool
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    last: Chunk = {}
    try:
        async for chunk in answer:
            last = chunk
            await response.write(_event(chunk))
        if with_usage and last:
            await response.write(_event({**last, "choices": [], "usage": usage_of(answer)}))
        await response.write(f": cost {answer.cost_units} units\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
    except ConnectionResetError:
        _log.info("the program left; what was sent is paid")
    except VizError as error:
        _log.warning("the stream broke", code=error.code, reason=error.detail)
        await response.write(_event(_error_body(error.detail, _type_of(error), error.code)))
    await response.write_eof()
    return response


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _problem(error: VizError) -> web.Response:
    return _error_response(error.status, error.detail, _type_of(error), error.code)


def _type_of(error: VizError) -> str:
    if isinstance(error, PaymentError):
        return "payment_error"
    return "invalid_request_error" if error.status < 500 else "api_error"


def _error_response(status: int, message: str, kind: str, code: str) -> web.Response:
    # OpenAI's clients would repeat 409 and 5xx by themselves; the answer would be the same
    headers = {"X-Should-Retry": "false"} if status in (409, 429) or status >= 500 else {}
    return web.json_response(_error_body(message, kind, code), status=status, headers=headers)


def _error_body(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
