"""Logs of many blocks from endpoints that serve few at once.

Owns what counts as "too many blocks", and the search of a whole history. Does not follow the chain:
``viz.chain.watcher`` does, which has to notice when it changes meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import aiohttp

from viz.chain.rpc import BlockNotKnown, Log, Rpc
from viz.domain.units import Address
from viz.errors import ChainError, ChainUnreachable


def too_many(error: ChainError) -> bool:
    """Return whether an endpoint that refused so may answer for fewer blocks.

    It says so in a JSON-RPC error or, some, by HTTP 400 or 413; each in words of its own.
    """
    if isinstance(error, ChainUnreachable):
        cause = error.__cause__
        return isinstance(cause, aiohttp.ClientResponseError) and cause.status in (400, 413)
    return not isinstance(error, BlockNotKnown)


async def scan(
    rpc: Rpc,
    addresses: Sequence[Address],
    first: int,
    last: int,
    topics: Sequence[bytes | None],
) -> AsyncIterator[Log]:
    """Yield the logs of blocks ``first`` to ``last``: in one question, or in as many as it takes.

    Raises ChainError where a single block is refused, ChainUnreachable.
    """
    blocks = last - first + 1
    while first <= last:
        end = min(last, first + blocks - 1)
        try:
            logs = await rpc.logs(addresses, first, end, topics)
        except ChainError as error:
            if first == end or not too_many(error):
                raise
            blocks = (end - first + 1) // 2
            continue
        for log in logs:
            yield log
        first = end + 1
