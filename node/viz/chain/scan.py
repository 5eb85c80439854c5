"""Search a long history for logs at endpoints that serve few blocks at once.

Does not follow the chain: ``viz.chain.watcher`` does, which has to notice when it changes
meanwhile. Refusals are told apart in ``viz.chain.refusals``: only one that speaks of blocks or
results is answered by halving the range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from viz.chain.endpoint import EndpointRefused, TooMuchAsked
from viz.chain.rpc import Log, Rpc
from viz.domain.units import Address
from viz.errors import ChainUnreachable

# What is tried after a refusal that gives no reason, and after the next: few questions, whatever
# its reason was.
_UNCLEAR_BLOCKS: Final = (1_000, 10)


async def scan(
    rpc: Rpc,
    addresses: Sequence[Address],
    first: int,
    last: int,
    topics: Sequence[bytes | None],
) -> AsyncIterator[Log]:
    """Yield the logs of blocks ``first`` to ``last``: in one question, or in as many as it takes.

    Raises ChainUnreachable, also where the endpoint asks for patience or refuses a single block.
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
    """Return how many blocks to ask for after this refusal of ``blocks``; 0 for none."""
    if isinstance(error, TooMuchAsked):
        return blocks // 2
    if isinstance(error, EndpointRefused):
        return next((each for each in _UNCLEAR_BLOCKS if each < blocks), 0)
    return 0  # a rate limit, history that it does not keep, no answer
