"""A JSON-RPC endpoint that answers as told, and passes on to a real one what it was not told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Answer = Callable[[dict[str, Any]], Any]


@dataclass
class Endpoint:
    """``told`` maps a method to the whole answer: a JSON value, text, an HTTP status, or a function
    of the request that returns one of these. ``everything`` stands for methods without an entry;
    with neither, the question goes to ``behind``."""

    url: str = ""
    behind: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    everything: Any = None
    hangs: bool = False
    asked: list[str] = field(default_factory=list)

    async def _answer(self, request: web.Request) -> web.Response:
        raw = await request.read()
        question = json.loads(raw)
        method = question["method"]
        self.asked.append(method)
        if self.hangs:
            await asyncio.sleep(3_600)
        answer = self.told.get(method, self.everything)
        if callable(answer):
            answer = answer(question)
        if isinstance(answer, int) and not isinstance(answer, bool):
            return web.Response(status=answer)
        if isinstance(answer, str):
            return web.Response(text=answer, content_type="application/json")
        if answer is not None:
            if isinstance(answer, dict):
                answer = {"jsonrpc": "2.0", "id": question["id"], **answer}
            return web.json_response(answer)
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                self.behind, data=raw, headers={"Content-Type": "application/json"}
            ) as response,
        ):
            return web.Response(body=await response.read(), content_type="application/json")


@asynccontextmanager
async def endpoint(behind: str = "") -> AsyncIterator[Endpoint]:
    """Serve on a free local port."""
    served = Endpoint(behind=behind)
    app = web.Application()
    app.router.add_post("/", served._answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield served
    finally:
        await runner.cleanup()
