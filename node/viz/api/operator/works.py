"""Handle the operator's commands about works and permissions: fetch a work, permit a node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from viz.api.bodies import trusted_body_of
from viz.api.context import NodeContext, number_of, parts_of
from viz.api.serialise import plain
from viz.domain.units import AdapterId, ContentId
from viz.errors import InvalidRequest
from viz.protocol.notices import view_of
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader, read_whole
from viz.services.work_records import load_record


async def fetch(request: web.Request) -> web.Response:
    """Fetch and open a licensed work, and answer where it is."""
    _, body = await trusted_body_of(request)
    content_id = ContentId(Reader(body, "the request").integer("contentId", JSON_INTEGER_MAX))
    path = await parts_of(request).licensed_works.path(content_id)
    record = await asyncio.to_thread(load_record, path)
    title = record.title if record is not None else ""
    found = {"contentId": int(content_id), "title": title, "path": str(path.absolute())}
    return web.json_response(found)


async def notices(request: web.Request) -> web.Response:
    """Answer the notices on a work, at this node (its URL is empty) and at its custodians."""
    parts = parts_of(request)
    content_id = ContentId(number_of(request, "content_id", JSON_INTEGER_MAX))
    own, _ = parts.notices.page(content_id=content_id)
    found = [("", view_of(each)) for each in own] + await parts.licensed_works.notices(content_id)
    return web.json_response(
        {"notices": [{"url": url, "view": view.to_json()} for url, view in found]}
    )


async def permit(request: web.Request) -> web.Response:
    """Permit another node to serve an adapter that was trained here, or end the permission.

    The answer's hash is null if nothing had to be changed: then nothing was sent.
    """
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the request")
    parts = parts_of(request)
    adapter_id, node = AdapterId(reader.integer("adapterId")), reader.address("node")
    sent = await parts.publishing.permit(adapter_id, node, allowed=reader.boolean("allowed"))
    standing = await parts.chain.servable(adapter_id, node)
    told = {"hash": None} if sent is None else plain(sent)
    return web.json_response(
        told | {"serves": standing.reason is None, "servesUntil": standing.until_s or 0}
    )


async def with_paths(parts: NodeContext, body: Json) -> Json:
    """Return the training request with a path for every work.

    A work that is named only by its content id is fetched first if it is not here.
    """
    works = body.get("works")
    if not isinstance(works, Sequence) or isinstance(works, str):
        return body
    found: list[Any] = []
    for work in works:
        by_id = isinstance(work, Mapping) and "path" not in work and "contentId" in work
        found.append(await _with_path(parts, work["contentId"]) if by_id else work)
    return {**body, "works": found}


async def _with_path(parts: NodeContext, value: object) -> Json:
    try:
        content_id = ContentId(read_whole(value, JSON_INTEGER_MAX))
    except ValueError as error:
        raise InvalidRequest(f"a work's contentId is not {error}") from error
    return {"path": str((await parts.licensed_works.path(content_id)).absolute())}
