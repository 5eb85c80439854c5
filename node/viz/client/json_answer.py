"""Ask a node for JSON, and read its answer, bounded in bytes, values and time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp

from viz.errors import NodeUnreachable
from viz.protocol import payment
from viz.protocol.answers import too_long, value_of

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_ANSWER_VALUES: Final = 262_144
# A challenge names the best voucher, whose lines can exceed aiohttp's default of 8 KiB.
MAX_HEADER_BYTES: Final = payment.MAX_CREDENTIAL_CHARS + 1024
_CONNECT_S: Final = 30.0


async def ask_json(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    within_s: float,
    read_s: float,
    max_bytes: int = MAX_ANSWER_BYTES,
    **sent: Any,
) -> Any:
    """Send a request and return the JSON value of the node's answer, all within ``within_s``.

    Follows no redirect, because a credential is for one node only. ``sent`` are the body and the
    headers, by aiohttp's names. The answer is read as ``json_answer`` reads it, within ``read_s``.
    Raises what that raises, and aiohttp.ClientError or TimeoutError if no answer came.
    """
    async with (
        asyncio.timeout(within_s),
        http.request(
            method,
            url,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            allow_redirects=False,
            max_field_size=MAX_HEADER_BYTES,
            **sent,
        ) as response,
    ):
        return await json_answer(response, within_s=read_s, max_bytes=max_bytes)


async def json_answer(
    response: aiohttp.ClientResponse, *, within_s: float, max_bytes: int = MAX_ANSWER_BYTES
) -> Any:
    """Return the JSON value of an answer of at most ``max_bytes``, read within ``within_s``.

    Raises the node's problem, NodeRefused for an answer that is too large or no JSON, and
    NodeUnreachable if it breaks off.
    """
    parts: list[bytes] = []
    left = max_bytes + 1
    try:
        async with asyncio.timeout(within_s):
            while left and (part := await response.content.read(left)):
                parts.append(part)
                left -= len(part)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NodeUnreachable(
            f"the node broke off its answer: {str(error) or type(error).__name__}"
        ) from error
    if not left:
        raise too_long(response.status, max_bytes)
    return value_of(b"".join(parts), response.status, max_values=MAX_ANSWER_VALUES)
