"""Search a long history for logs at endpoints that serve few blocks at once.

For one search of the past. ``viz.chain.watcher`` follows the chain, and notices reorganisations.
``viz.chain.refusals`` classifies refusals: only one about the number of blocks or results halves
the range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from viz.chain.endpoint import EndpointRefused, TooMuchAsked
from viz.chain.rpc import Log, Rpc
from viz.domain.units import Address
from viz.errors import ChainUnreachable

# The ranges to try after a first and a second refusal without a known reason: only two more
# requests, in case the range was not the reason.
_UNCLEAR_BLOCKS: Final = (1_000, 10)


async def scan(
    rpc: Rpc,
    addresses: Sequence[Address],
    first: int,
    last: int,
    topics: Sequence[bytes | None],
) -> AsyncIterator[Log]:
    """Yield the logs of blocks ``first`` to ``last``, in as many requests as the endpoint needs.

    Raises ChainUnreachable, also if the endpoint limits the rate or refuses a single block.
    """
    blocks = last - first + 1
    while first <= last:
        end = min(last, first + blocks - 1)
        try:
            logs = await rpc.logs(addresses, first, end, topics)
        except ChainUnreachable as error:
            fewer = _fewer(error, end - first + 1)
            if not fewer:
                raise
            blocks = fewer
            continue
        for log in logs:
            yield log
        first = end + 1


def _fewer(error: ChainUnreachable, blocks: int) -> int:
    """Return how many blocks to ask for after a refusal of ``blocks``; 0 to give up."""
    if isinstance(error, TooMuchAsked):
        return blocks // 2
    if isinstance(error, EndpointRefused):
        return next((each for each in _UNCLEAR_BLOCKS if each < blocks), 0)
    return 0  # fewer blocks do not help: a rate limit, pruned history, or no answer
