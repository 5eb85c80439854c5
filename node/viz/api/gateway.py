"""Serve the blobs that this node keeps, as a trustless gateway of IPFS.

Source: the Trustless Gateway specification of IPFS. The client verifies what it gets. The node does
not fetch a blob for strangers. Invariant: at most ``MAX_WHOLE_READERS`` clients read a whole blob
at once, each for at most ``MAX_WHOLE_S`` seconds, and the gateway holds one chunk for each.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

import structlog
from aiohttp import hdrs, web

from viz.api.context import parts_of, send
from viz.api.negotiation import is_known, ranked_types
from viz.domain.units import Cid
from viz.errors import BlobNotFound, InvalidRequest, StorageBusy, VizError
from viz.storage.base import size_of

RAW: Final = "application/vnd.ipld.raw"
MAX_WHOLE_BYTES: Final = 64 * 1024 * 1024
MAX_WHOLE_READERS: Final = 8
MAX_LOOKUPS: Final = 32
MAX_WHOLE_S: Final = 300
_FILE: Final = "application/octet-stream"
_OF_A_FILE: Final = frozenset({_FILE, "application/*", "*/*"})
_FOREVER: Final = "public, max-age=29030400, immutable"
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
        """Answer one raw block (``format=raw``), or the whole blob."""
        if self._lookups >= MAX_LOOKUPS:
            raise StorageBusy(f"{MAX_LOOKUPS} blobs are being looked up here: try again")
        self._lookups += 1
        try:
            found = await self._looked_up(request)
        finally:
            self._lookups -= 1
        if isinstance(found, web.Response):
            return found
        cid, headers = found
        if self._readers >= MAX_WHOLE_READERS:
            raise StorageBusy(
                f"{MAX_WHOLE_READERS} blobs are being read here: try again, or read it block by "
                "block with ?format=raw"
            )
        self._readers += 1
        try:
            async with asyncio.timeout(MAX_WHOLE_S):
                return await self._whole(request, cid, headers)
        except TimeoutError:
            _cut_off(request)
            raise ConnectionResetError("the client reads too slowly") from None
        finally:
            self._readers -= 1

    async def _looked_up(self, request: web.Request) -> web.Response | tuple[Cid, dict[str, str]]:
        """Return the answer if it is short, else the CID and the headers of a whole blob."""
        blobs = parts_of(request).blobs
        cid = Cid(request.match_info["cid"])
        if not await blobs.has(cid):
            raise BlobNotFound(f"this node does not keep {cid}")
        raw = _wants_block(request)
        # One URL has two bodies. Each gets its own tag, and Vary tells caches which header selects
        # between them.
        headers = {
            "Cache-Control": _FOREVER,
            "ETag": f'"{cid}.raw"' if raw else f'"{cid}"',
            "Vary": hdrs.ACCEPT,
            "X-Ipfs-Path": f"/ipfs/{cid}",
        }
        if raw:
            headers["Content-Disposition"] = f'attachment; filename="{cid}.bin"'
        if is_known(request.headers.getall(hdrs.IF_NONE_MATCH, ()), headers["ETag"]):
            return web.Response(status=304, headers=headers)
        if raw:
            return web.Response(body=await blobs.block(cid), content_type=RAW, headers=headers)
        if request.method == hdrs.METH_HEAD:
            headers[hdrs.CONTENT_LENGTH] = str(size_of(cid, await blobs.block(cid)))
            return web.Response(content_type=_FILE, headers=headers)
        return cid, headers

    async def _whole(
        self, request: web.Request, cid: Cid, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers | {"X-Content-Type-Options": "nosniff"})
        response.content_type = _FILE
        async with aclosing(
            parts_of(request).blobs.chunks(cid, max_bytes=MAX_WHOLE_BYTES)
        ) as whole:
            try:
                async for chunk in whole:
                    if not response.prepared:
                        await response.prepare(request)
                    await send(request, response, chunk)
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


def _wants_block(request: web.Request) -> bool:
    """Return whether the client wants one raw block; raise InvalidRequest for other formats."""
    wanted = request.query.get("format")
    if wanted is not None:
        if wanted != "raw":
            raise InvalidRequest(
                "the only format here is raw: write format=raw or leave it out", param="format"
            )
        return True
    ranked = ranked_types(request.headers.getall(hdrs.ACCEPT, ()))
    block = ranked.get(RAW, 0.0)
    # Only if the client names the block's type. A browser that accepts any type wants the file.
    return block > 0 and block >= max(
        (quality for name, quality in ranked.items() if name in _OF_A_FILE), default=0.0
    )


def _cut_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
