"""Answer the market: the models of all nodes in the directory, as checked by this node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import hdrs, web

from viz.api.access import OPERATOR_PATH, for_operator
from viz.api.bodies import trusted_body_of
from viz.api.context import parts_of
from viz.api.negotiation import tagged
from viz.domain.units import (
    UINT32_MAX,
    UINT64_MAX,
    AdapterId,
    ContentId,
    hex_of,
    parse_address,
    parse_hash,
)
from viz.errors import InvalidRequest
from viz.protocol.market import MARKET_PATH, MAX_PAGE
from viz.protocol.wire import JSON_INTEGER_MAX, Reader, read_decimal
from viz.services.market.announcing import Announced
from viz.services.market.market_index import MarketQuery, words_of

KEPT_S: Final = 30
T = TypeVar("T")
_NAMES: Final = frozenset(
    ("q", "adapter", "base", "work", "node", "maxPromptPrice", "maxCompletionPrice")
) | {"after", "limit"}


def routes() -> list[web.RouteDef]:
    """Return the routes of the market."""
    path = OPERATOR_PATH + "/announcement"
    return [
        web.get(MARKET_PATH, market),
        web.post(path, for_operator(announce)),
        web.delete(path, for_operator(withdraw)),
    ]


async def market(request: web.Request) -> web.Response:
    """Answer a page of the models that match the query, each with the nodes that serve it."""
    body = parts_of(request).discovery.index.page(_query(request))
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: f"public, max-age={KEPT_S}"}
    return tagged(request, body, "application/json", headers)


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


def _query(request: web.Request) -> MarketQuery:
    given = request.query
    for name in given:
        if name not in _NAMES:
            raise InvalidRequest(
                f"{name[:40]!r} is not a filter of the market: use {', '.join(sorted(_NAMES))}",
                param=name[:40],
            )

    def read(name: str, reader: Callable[[str], T]) -> T | None:
        text = given.get(name)
        if text is None:
            return None
        try:
            return reader(text)
        except (ValueError, InvalidRequest) as error:
            what = error.detail if isinstance(error, InvalidRequest) else f"not {error}"
            raise InvalidRequest(f"{name!r}: {what}", param=name) from error

    adapter_id = read("adapter", lambda text: read_decimal(text, UINT32_MAX))
    content_id = read("work", lambda text: read_decimal(text, JSON_INTEGER_MAX))
    limit = read("limit", lambda text: read_decimal(text, MAX_PAGE))
    return MarketQuery(
        words=words_of(given.get("q", "")),
        adapter_id=None if adapter_id is None else AdapterId(adapter_id),
        base_digest=read("base", parse_hash),
        content_id=None if content_id is None else ContentId(content_id),
        node=read("node", parse_address),
        max_prompt_units=read("maxPromptPrice", lambda text: read_decimal(text, UINT64_MAX)),
        max_completion_units=read(
            "maxCompletionPrice", lambda text: read_decimal(text, UINT64_MAX)
        ),
        after=given.get("after", ""),
        limit=limit or MAX_PAGE,
    )
