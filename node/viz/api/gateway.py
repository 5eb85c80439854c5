"""A trustless gateway to the blobs that this node keeps, and to no others.

Source: the Trustless Gateway specification of IPFS. Whoever asks verifies what comes; a blob that
is not here is not fetched for strangers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from aiohttp import web

from viz.api.parts import parts_of
from viz.domain.units import Cid
from viz.errors import BlobNotFound

RAW: Final = "application/vnd.ipld.raw"
MAX_WHOLE_BYTES: Final = 64 * 1024 * 1024
_FOREVER: Final = "public, max-age=29030400, immutable"


def routes() -> list[web.RouteDef]:
    """Return the routes of the gateway."""
    return [web.get("/ipfs/{cid}", blob)]


async def blob(request: web.Request) -> web.Response:
    """Answer one raw block (``format=raw``), or the whole blob."""
    blobs = parts_of(request).blobs
    cid = Cid(request.match_info["cid"])
    if not await blobs.has(cid):
        raise BlobNotFound(f"this node does not keep {cid}")
    headers = {"Cache-Control": _FOREVER, "ETag": f'"{cid}"', "X-Ipfs-Path": f"/ipfs/{cid}"}
    if request.query.get("format") == "raw" or request.headers.get("Accept") == RAW:
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        headers["Content-Disposition"] = f'attachment; filename="{cid}.bin"'
        return web.Response(body=await blobs.block(cid), content_type=RAW, headers=headers)
    with tempfile.TemporaryDirectory(prefix="viz-blob-") as folder:
        target = Path(folder) / "blob"
        await blobs.fetch(cid, target, max_bytes=MAX_WHOLE_BYTES)
        return web.Response(
            body=target.read_bytes(), content_type="application/octet-stream", headers=headers
        )
