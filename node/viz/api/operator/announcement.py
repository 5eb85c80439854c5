"""Put this node into the directory on chain, and take it off, for its operator."""

from __future__ import annotations

from aiohttp import web

from viz.api.access import OPERATOR_PATH, for_operator
from viz.api.bodies import trusted_body_of
from viz.api.context import parts_of
from viz.domain.units import hex_of
from viz.protocol.wire import Reader
from viz.services.market.announcing import Announced


def routes() -> list[web.RouteDef]:
    """Return the routes of the node's entry in the directory."""
    path = OPERATOR_PATH + "/announcement"
    return [
        web.post(path, for_operator(announce)),
        web.delete(path, for_operator(withdraw)),
    ]


async def announce(request: web.Request) -> web.Response:
    """Announce this node in the directory on chain."""
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the request")
    done = await parts_of(request).announcing.announce(reader.optional("url", reader.text) or "")
    return _announced(request, done)


async def withdraw(request: web.Request) -> web.Response:
    """Remove this node from the directory on chain."""
    return _announced(request, await parts_of(request).announcing.withdraw())


def _announced(request: web.Request, done: Announced) -> web.Response:
    return web.json_response(
        {
            "node": parts_of(request).sessions.node,
            "url": done.entry.url if done.entry else None,
            "ageKey": done.entry.age_key if done.entry else None,
            "transaction": hex_of(done.transaction) if done.transaction else None,
        }
    )
