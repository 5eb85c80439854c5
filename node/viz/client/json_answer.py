"""Read the JSON of a node's answer, bounded in bytes, values and time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp

from viz.errors import NodeUnreachable
from viz.protocol.answers import too_long, value_of

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_ANSWER_VALUES: Final = 262_144


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
