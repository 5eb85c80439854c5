"""Read and parse request bodies, with limits that hold before the client is authenticated.

Invariants:

- At most ``STRANGER_BODY_BYTES`` are read from a client who is not authenticated.
- A body has at most ``MAX_BODY_VALUES`` values.
- A body of more than ``BESIDE_THE_LOOP_BYTES`` is parsed in a thread, so that it delays no other
  request.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from viz.api.context import LIMITS
from viz.errors import InvalidRequest
from viz.protocol.wire import Json, parse_json

STRANGER_BODY_BYTES: Final = 64 * 1024
BESIDE_THE_LOOP_BYTES: Final = 64 * 1024
MAX_BODY_VALUES: Final = 16_384


def is_large(request: web.Request) -> bool:
    """Return whether the body is, or may be, longer than ``STRANGER_BODY_BYTES``."""
    length = request.content_length
    return request.body_exists and (length is None or length > STRANGER_BODY_BYTES)


async def body_of(
    request: web.Request, *, max_bytes: int = STRANGER_BODY_BYTES
) -> tuple[bytes, Json]:
    """Return the body as it was sent, and as a JSON object.

    Raises InvalidRequest, and aiohttp's HTTPRequestTimeout, HTTPRequestEntityTooLarge and
    HTTPUnsupportedMediaType.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType(headers={"Accept-Encoding": "identity"})
    try:
        async with asyncio.timeout(request.app[LIMITS].client_timeout_s):
            raw = await _read(request, min(max_bytes, request.app[LIMITS].max_body_bytes))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    if not raw.strip():
        raise InvalidRequest("the body is empty: send a JSON object")
    if len(raw) <= BESIDE_THE_LOOP_BYTES:
        return raw, _parsed(raw)
    return raw, await asyncio.to_thread(_parsed, raw)


async def trusted_body_of(request: web.Request) -> tuple[bytes, Json]:
    """Return the body of an authenticated client; raise as ``body_of``."""
    return await body_of(request, max_bytes=request.app[LIMITS].max_body_bytes)


async def _read(request: web.Request, most: int) -> bytes:
    length = request.content_length or 0
    if length > most:
        raise web.HTTPRequestEntityTooLarge(most, length)
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > most:
            raise web.HTTPRequestEntityTooLarge(most, len(body))
    return bytes(body)


def _parsed(raw: bytes) -> Json:
    return parse_json(raw, max_bytes=len(raw), max_values=MAX_BODY_VALUES)
