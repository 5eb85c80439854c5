"""Answer the periods of receipts that this node published."""

from __future__ import annotations

import json

from aiohttp import web

from viz.api.context import asked_number, parts_of
from viz.api.negotiation import tagged
from viz.protocol.receipt_periods import PERIODS_PATH


def routes() -> list[web.RouteDef]:
    """Return the routes of published receipts."""
    return [web.get(PERIODS_PATH, periods)]


async def periods(request: web.Request) -> web.Response:
    """Answer a page of periods, the newest first; ``before`` names a period's number."""
    before = asked_number(request, "before", 0) or None
    page = await parts_of(request).receipt_periods.page(before)
    return tagged(request, json.dumps(page.to_json()).encode(), "application/json")
