"""Wait until the creator's own chain endpoint shows what a node has done there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")
TRIES: Final = 15
EVERY_S: Final = 2.0


async def until_seen(look: Callable[[], Awaitable[T | None]], tries: int = TRIES) -> T | None:
    """Return what ``look`` finds; look again every ``EVERY_S`` seconds while it finds nothing.

    The endpoint, or another node, may get the block later than the node that sent it. Returns the
    last result; raises what ``look`` raises.
    """
    for looked in range(tries):
        if looked:
            await asyncio.sleep(EVERY_S)
        if found := await look():
            return found
    return None
