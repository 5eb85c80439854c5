"""Accept and answer the listings of works."""

from __future__ import annotations

from aiohttp import web

from viz.api.bodies import body_of
from viz.api.context import ask_chain, asked_number, number_of, parts_of
from viz.api.negotiation import tagged
from viz.domain.units import ContentId
from viz.errors import InvalidRequest
from viz.protocol.listing import (
    LISTING_PATH,
    LISTINGS_PAGE,
    LISTINGS_PATH,
    ListingAnswer,
    SignedListing,
    spelled,
    spelled_page,
)
from viz.protocol.wire import JSON_INTEGER_MAX


def routes() -> list[web.RouteDef]:
    """Return the routes of listings."""
    return [
        web.post(LISTINGS_PATH, publish),
        web.get(LISTINGS_PATH, listings),
        web.get(LISTING_PATH, listing),
    ]


async def publish(request: web.Request) -> web.Response:
    """Store a listing signed by its owner; anybody may hand it in."""
    _, body = await body_of(request)
    signed = SignedListing.from_json(body)
    ask_chain(request)
    kept = await parts_of(request).listings.accept(signed)
    return web.json_response(ListingAnswer(kept.content_id, kept.issued_at).to_json(), status=201)


async def listings(request: web.Request) -> web.Response:
    """Answer a page of the listings kept here, by the works' ids."""
    after = ContentId(asked_number(request, "after", 0))
    limit = asked_number(request, "limit", LISTINGS_PAGE)
    if not 1 <= limit <= LISTINGS_PAGE:
        raise InvalidRequest(f"'limit' must be a number from 1 to {LISTINGS_PAGE}", param="limit")
    # Not parsed, because strangers may ask often, and a page may have megabytes.
    found, following = await parts_of(request).listings.kept_page(after, limit)
    page = [spelled(each.document, each.signature) for each in found]
    return tagged(request, spelled_page(page, following), "application/json")


async def listing(request: web.Request) -> web.Response:
    """Answer the listing of one work."""
    content_id = ContentId(number_of(request, "content_id", JSON_INTEGER_MAX))
    found = await parts_of(request).listings.shown(content_id)
    return tagged(request, spelled(found.document, found.signature), "application/json")
