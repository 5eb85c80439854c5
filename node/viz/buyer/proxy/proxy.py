"""Serve a local OpenAI-compatible API that pays for answers: any OpenAI tool works unmodified.

Owns the translation between an OpenAI client and an ``AskedSide`` (one node or a network): models,
streamed and whole answers, errors. It always streams from the nodes and joins whole answers here,
so that money is signed step by step (threat 36).

A program that reaches the proxy spends the buyer's money: ``viz.buyer.proxy.access`` decides which
programs may. If a program disconnects, its answer ends: what is not read is not paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from viz.buyer.answers.completion import assemble
from viz.buyer.answers.received import AnswerChunk
from viz.buyer.asking import AskedSide, OneNode, StreamedAnswer
from viz.buyer.client import BuyerClient
from viz.buyer.proxy.access import ProxyAccess
from viz.buyer.proxy.openai_errors import error_body, problem, refusal
from viz.buyer.proxy.spent_line import say_cost
from viz.errors import ConfigError, VizError
from viz.protocol.payment import CHAT_PATH, COMPLETIONS_PATH, MODELS_PATH
from viz.protocol.sse import DONE, EVENT_STREAM, json_line, sse_comment, sse_event
from viz.protocol.wire import parse_json

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
SHUTDOWN_S: Final = 5.0
SPENDING_PATH: Final = "/viz/v1/spending"
COST_HEADER: Final = "Viz-Cost-Units"
_SIDE: Final[web.AppKey[AskedSide]] = web.AppKey("side")
_ACCESS: Final = web.AppKey("access", ProxyAccess)
_EXPECTED: Final = "the header Expect may only ask for 100-continue"
_log = structlog.get_logger()


def create_proxy(side: AskedSide, access: ProxyAccess | None = None) -> web.Application:
    """Return the proxy's application; ``access`` says who may ask, by default only this machine."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
    app[_SIDE] = side
    app[_ACCESS] = access or ProxyAccess()
    app.on_response_prepare.append(app[_ACCESS].tell_browsers)
    app.add_routes(
        [
            web.get(MODELS_PATH, _models),
            web.get(MODELS_PATH + "/{model:.+}", _model),
            web.get(SPENDING_PATH, _spending),
            web.post(CHAT_PATH, _complete),
            web.post(COMPLETIONS_PATH, _complete),
        ]
    )
    return app


@asynccontextmanager
async def running_proxy(
    asked: AskedSide | BuyerClient,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str = "",
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> AsyncIterator[str]:
    """Serve the proxy while the context lasts; yield its base URL, ``http://host:port/v1``.

    ``key`` is what programs must give as their OPENAI_API_KEY; if it is empty, any key is taken.
    ``hosts`` and ``origins`` are allowed beside this machine's names (``ProxyAccess.of``). Raises
    ConfigError if the port is taken, or if ``host`` is beyond this machine and there is no key.
    """
    side = OneNode(asked) if isinstance(asked, BuyerClient) else asked
    app = create_proxy(side, ProxyAccess.of(host, key=key, hosts=hosts, origins=origins))
    # Cancel the handler of a program that left: it may ask again, and must not pay twice.
    runner = _Runner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True)
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


class _Runner(web.AppRunner):
    """Serve the proxy; what aiohttp refuses before the application gets OpenAI's error object."""

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        handler = server.request_handler

        async def handle(request: BaseRequest) -> web.StreamResponse:
            try:
                return await handler(request)
            except web.HTTPException as error:
                said = _EXPECTED if error.status == 417 else error.reason
                refused = refusal(error.status, said, f"http-{error.status}")
                refused.force_close()  # the body is not read
                return refused

        server.request_handler = handle
        return server


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    access = request.app[_ACCESS]
    try:
        turned_away = access.preflight(request) or access.refuse(request)
        return turned_away or await handler(request)
    except VizError as error:
        return problem(error)
    except web.HTTPNotFound:
        return refusal(404, _no_route(request), "unknown-route")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not for {request.path[:100]}: use {allowed}"
        return refusal(405, message, "method-not-allowed", Allow=allowed)
    except web.HTTPException as error:
        return refusal(error.status, error.reason, f"http-{error.status}")
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception as error:  # noqa: BLE001  a bug is answered by an opaque 500, never by its text
        _log.error("unexpected, in the proxy", exc_info=error)
        return refusal(500, "something went wrong in the proxy", "viz-error", "api_error")


def _no_route(request: web.Request) -> str:
    path = request.path[:100]
    if "/v1" + path in (MODELS_PATH, CHAT_PATH, COMPLETIONS_PATH):
        return f"there is no {path} here, but a /v1{path}: let the base URL end in /v1"
    return (
        f"there is no {path} here: the node's models write text, by POST {CHAT_PATH} and "
        f"{COMPLETIONS_PATH}; GET {MODELS_PATH} lists them"
    )


async def _models(request: web.Request) -> web.Response:
    data = await request.app[_SIDE].model_entries()
    return web.json_response({"object": "list", "data": data})


async def _model(request: web.Request) -> web.Response:
    return web.json_response(await request.app[_SIDE].model_entry(request.match_info["model"]))


async def _spending(request: web.Request) -> web.Response:
    side = request.app[_SIDE]
    here = side.deployment
    said = {"decimals": here.token_decimals, "symbol": here.token_symbol}
    return web.json_response(await side.spending_report() | said)


async def _complete(request: web.Request) -> web.StreamResponse:
    body = parse_json(await request.read(), max_bytes=MAX_BODY_BYTES)
    wanted = body.pop("stream", False)
    options = body.pop("stream_options", None)
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    side = request.app[_SIDE]
    async with side.asking(body, request.path) as answer:
        try:
            if wanted is True:
                return await _stream(request, answer, with_usage=with_usage)
            chunks = [chunk async for chunk in answer]
        finally:
            say_cost(side, answer)
        headers = {COST_HEADER: str(answer.cost_units)} if answer.cost_units is not None else {}
        whole = assemble(chunks, answer.usage)
        if parts := answer.parts_json():
            whole["viz"] = {"parts": parts}
        return web.json_response(whole, headers=headers)


async def _stream(
    request: web.Request, answer: StreamedAnswer, *, with_usage: bool
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    last: AnswerChunk = {}
    try:
        async for chunk in answer:
            last = chunk
            await response.write(sse_event(chunk))
        if with_usage and last:
            await response.write(sse_event({**last, "choices": [], "usage": answer.usage}))
        for part in answer.parts_json():
            await response.write(sse_comment(f"part {json_line(part)}"))
        if answer.cost_units is not None:  # else a part is not billed yet
            await response.write(sse_comment(f"cost {answer.cost_units} units"))
        await response.write(DONE)
    except ConnectionResetError:
        _log.info("the program left; what was sent is paid")
    except VizError as error:
        _log.warning("the stream broke", code=error.code, reason=error.detail)
        await response.write(sse_event(error_body(error)))
    await response.write_eof()
    return response
