"""Answer whether the node can serve, and its metrics; only the operator gets all metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from aiohttp import web

from viz.api.access import has_operator_token
from viz.api.context import LOOKS, STOPPING, NodeContext, parts_of
from viz.api.monitoring.metrics import METRICS
from viz.api.monitoring.money_metrics import money_of
from viz.api.serialise import failing_json
from viz.errors import VizError

CHECK_LIMIT_S: Final = 5.0
HEALTH_KEPT_S: Final = 2
MONEY_KEPT_S: Final = 5


def routes() -> list[web.RouteDef]:
    """Return the routes of health and metrics."""
    return [web.get("/healthz", healthz), web.get("/metrics", metrics)]


async def healthz(request: web.Request) -> web.Response:
    """Answer 200 if chain and ledger answer, the clock is right and the node is not stopping.

    If a loop fails, ``loops`` is ``degraded``; with the operator's token the answer says which one
    and why. The node still sells and restarts the loop by itself, so there is no need to restart
    the node.
    """
    found = await _health(request)
    parts = parts_of(request)
    # A developer may move the time of a development chain. The answer shows it, but the node is
    # still healthy.
    judged = {name: value for name, value in found.items() if name not in ("clock", "loops")}
    healthy = all(value == "ok" for value in judged.values()) and not parts.clock_check.wrong
    more = {"failing": failing_json(parts.supervisor)} if has_operator_token(request) else {}
    return web.json_response({**found, **more}, status=200 if healthy else 503)


async def metrics(request: web.Request) -> web.Response:
    """Answer the metrics in Prometheus' text format; all of them only to the operator's token."""
    own = request.app[METRICS]
    if has_operator_token(request):
        parts = parts_of(request)
        money = await request.app[LOOKS].get(
            "money", lambda: money_of(parts, CHECK_LIMIT_S), kept_s=MONEY_KEPT_S, own=True
        )
        body = own.render(money)
    else:
        body = own.render_public(await _health(request))
    return web.Response(
        body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def _health(request: web.Request) -> dict[str, str]:
    parts = parts_of(request)
    # Anybody may ask at any rate, so one reading serves all of them.
    checked = await request.app[LOOKS].get(
        "health", lambda: _checks(parts), kept_s=HEALTH_KEPT_S, own=True
    )
    node = "stopping" if request.app[STOPPING].is_set() else "ok"
    loops = "degraded" if parts.supervisor.failing else "ok"
    return {"node": node, **checked, "clock": parts.clock_check.state, "loops": loops}


async def _checks(parts: NodeContext) -> dict[str, str]:
    names = ("chain", "ledger")
    found = await asyncio.gather(_check(parts.chain.chain_time()), _check(_ledger(parts)))
    return dict(zip(names, found, strict=True))


async def _ledger(parts: NodeContext) -> None:
    """Read the ledger, and raise StoreFull if its disk has too little room to sell anything."""
    await parts.ledger.adapters()
    parts.ledger.require_room()


async def _check(asked: Awaitable[Any]) -> str:
    try:
        async with asyncio.timeout(CHECK_LIMIT_S):
            await asked
    except TimeoutError:
        return "no answer"
    except VizError as error:
        return error.code
    return "ok"
