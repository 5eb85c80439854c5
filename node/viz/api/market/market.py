"""Answer the market: the models of all nodes in the directory, as checked by this node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import hdrs, web

from viz.api.context import parts_of
from viz.api.negotiation import tagged
from viz.domain.units import (
    UINT32_MAX,
    UINT64_MAX,
    AdapterId,
    ContentId,
    parse_address,
    parse_hash,
)
from viz.errors import InvalidRequest
from viz.protocol.market import MARKET_PATH, MAX_PAGE
from viz.protocol.wire import JSON_INTEGER_MAX, read_decimal
from viz.services.market.market_index import MarketQuery, words_of

KEPT_S: Final = 30
T = TypeVar("T")
_NAMES: Final = frozenset(
    ("q", "adapter", "base", "work", "node", "maxPromptPrice", "maxCompletionPrice")
) | {"after", "limit"}


def routes() -> list[web.RouteDef]:
    """Return the routes of the market."""
    return [web.get(MARKET_PATH, market)]


async def market(request: web.Request) -> web.Response:
    """Answer a page of the models that match the query, each with the nodes that serve it."""
    body = parts_of(request).discovery.index.page(_query(request))
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: f"public, max-age={KEPT_S}"}
    return tagged(request, body, "application/json", headers)


def _query(request: web.Request) -> MarketQuery:
    given = request.query
    for name in given:
        if name not in _NAMES:
            raise InvalidRequest(
                f"{name[:40]!r} is not a filter of the market: use {', '.join(sorted(_NAMES))}",
                param=name[:40],
            )
        if len(given.getall(name)) > 1:
            raise InvalidRequest(f"{name!r} is given twice: give it once", param=name)

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
    if limit == 0:
        raise InvalidRequest(f"'limit' must be a number from 1 to {MAX_PAGE}", param="limit")
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
