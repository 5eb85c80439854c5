"""Whether the node can serve, and its figures."""

from __future__ import annotations

import asyncio

from aiohttp import web

from viz.api.metrics import METRICS
from viz.api.parts import STOPPING, parts_of
from viz.errors import VizError

CHECK_LIMIT_S = 5.0


def routes() -> list[web.RouteDef]:
    """Return the routes for whoever watches the node."""
    return [web.get("/healthz", healthz), web.get("/metrics", metrics)]


async def healthz(request: web.Request) -> web.Response:
    """Answer 200 while the chain and the ledger answer and the node is not stopping."""
    parts = parts_of(request)
    found: dict[str, str] = {"node": "stopping" if request.app[STOPPING].is_set() else "ok"}
    checks = {"chain": parts.chain.chain_time(), "ledger": parts.ledger.adapters()}
    for name, check in checks.items():
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                await check
            found[name] = "ok"
        except TimeoutError:
            found[name] = "no answer"
        except VizError as error:
            found[name] = error.code
    healthy = all(value == "ok" for value in found.values())
    return web.json_response(found, status=200 if healthy else 503)


async def metrics(request: web.Request) -> web.Response:
    """Answer Prometheus' text exposition."""
    return web.Response(
        body=request.app[METRICS].render(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )
