"""Serve the blobs that this node keeps, as a trustless gateway of IPFS.

Source: the Trustless Gateway and Path Gateway specifications of IPFS. The client verifies what it
gets. The node does not fetch a blob for strangers. One deviation: the tag of a part is that of the
whole, as RFC 9110 asks for (section 15.3.7), so that clients may join parts. Invariant: at most
``MAX_READERS`` clients read a blob of many blocks at once, each for at most ``MAX_READING_S``
seconds, and the gateway holds one leaf for each.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

import structlog
from aiohttp import hdrs, web

from viz.api.context import parts_of, send
from viz.api.gateway.blob_body import BlobBody, car_body, file_body, pieces
from viz.api.gateway.representation import CAR, FILE, RAW, Representation, representation_of
from viz.api.negotiation import is_known, span_of
from viz.domain.units import Cid
from viz.errors import BlobNotCached, BlobNotFound, InvalidRequest, StorageBusy, VizError
from viz.storage.car import car_header
from viz.storage.walk import size_of

MAX_READERS: Final = 8
MAX_LOOKUPS: Final = 32
MAX_READING_S: Final = 300
# The identity CID of no bytes, by which clients find out that this is a trustless gateway.
PROBE: Final = "bafkqaaa"
_PROBE_CID: Final = b"\x01\x55\x00\x00"
# RFC 9110, section 15.4.5.
_OF_NOT_MODIFIED: Final = frozenset({"Cache-Control", "Content-Location", "ETag", "Vary"})
_log = structlog.get_logger()


def routes() -> list[web.RouteDef]:
    """Return the routes of one application's gateway."""
    return [web.get("/ipfs/{cid}", Gateway().blob)]


class Gateway:
    """Answer the readers of one application, and limit their number."""

    def __init__(self) -> None:
        self._readers = 0
        self._lookups = 0

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """Answer a blob's bytes or a part of them, one raw block, or a CAR of its blocks."""
        if request.headers.get("Service-Worker") == "script":
            raise InvalidRequest("a blob is not served as a service worker")
        form = representation_of(request.query, request.headers.getall(hdrs.ACCEPT, ()))
        cid = Cid(request.match_info["cid"])
        headers = form.headers(cid)
        if cid == PROBE:
            return web.Response(
                body=car_header(_PROBE_CID) if form.media_type == CAR else b"", headers=headers
            )
        if self._lookups >= MAX_LOOKUPS:
            raise StorageBusy(f"{MAX_LOOKUPS} blobs are being looked up here: try again")
        self._lookups += 1
        try:
            short = await _short_answer(request, cid, form, headers)
        finally:
            self._lookups -= 1
        if short is not None:
            return short
        if self._readers >= MAX_READERS:
            raise StorageBusy(
                f"{MAX_READERS} blobs are being read here: try again, or read it block by "
                "block with ?format=raw"
            )
        self._readers += 1
        try:
            async with asyncio.timeout(MAX_READING_S):
                return await _long_answer(request, cid, form, headers)
        except TimeoutError:
            _cut_off(request)
            raise ConnectionResetError("the client reads too slowly") from None
        finally:
            self._readers -= 1


async def _short_answer(
    request: web.Request, cid: Cid, form: Representation, headers: dict[str, str]
) -> web.Response | None:
    """Answer what needs no more than the tree: 304, one block, HEAD. None for a long body."""
    blobs = parts_of(request).blobs
    if not await blobs.has(cid):
        if "only-if-cached" in request.headers.get(hdrs.CACHE_CONTROL, "").lower():
            raise BlobNotCached(f"this node does not keep {cid}")
        raise BlobNotFound(f"this node does not keep {cid}")
    if is_known(request.headers.getall(hdrs.IF_NONE_MATCH, ()), headers["ETag"]):
        kept = {name: value for name, value in headers.items() if name in _OF_NOT_MODIFIED}
        return web.Response(status=304, headers=kept)
    if form.media_type == RAW:
        block = await blobs.block(cid)
        span = span_of(_range_header(request, headers["ETag"]), len(block))
        if span is None:
            return web.Response(body=block, headers=headers)
        headers[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{span.stop - 1}/{len(block)}"
        return web.Response(status=206, body=block[span.start : span.stop], headers=headers)
    if request.method != hdrs.METH_HEAD:
        return None
    if form.media_type == FILE:
        length = size_of(cid, await blobs.block(cid))
    else:
        length = (await car_body(blobs, cid, form)).length
    return web.Response(headers=headers | {hdrs.CONTENT_LENGTH: str(length)})


async def _long_answer(
    request: web.Request, cid: Cid, form: Representation, headers: dict[str, str]
) -> web.StreamResponse:
    blobs = parts_of(request).blobs
    if form.media_type == FILE:
        body = await file_body(blobs, cid, _range_header(request, headers["ETag"]))
    else:
        body = await car_body(blobs, cid, form)
    response = web.StreamResponse(headers=headers | {hdrs.CONTENT_LENGTH: str(body.length)})
    if body.content_range is not None:
        response.set_status(206)
        response.headers[hdrs.CONTENT_RANGE] = body.content_range
    return await _streamed(request, response, body)


async def _streamed(
    request: web.Request, response: web.StreamResponse, body: BlobBody
) -> web.StreamResponse:
    """Send the body; an error before its first byte is raised, one after it ends the connection."""
    async with aclosing(pieces(parts_of(request).blobs, body)) as parts:
        try:
            async for part in parts:
                if not response.prepared:
                    await response.prepare(request)
                await send(request, response, part)
        except VizError as error:
            if not response.prepared:
                raise
            # The status is already sent. Only a broken connection can show the error now.
            _log.warning("a blob broke off", code=error.code, reason=error.detail)
            _cut_off(request)
            return response
    if not response.prepared:
        await response.prepare(request)
    await send(request, response, b"", last=True)
    return response


def _range_header(request: web.Request, tag: str) -> str | None:
    """Return the Range header of a GET, if its If-Range does not name another body."""
    known = request.headers.get(hdrs.IF_RANGE, tag).strip() == tag
    return request.headers.get(hdrs.RANGE) if known and request.method == hdrs.METH_GET else None


def _cut_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
