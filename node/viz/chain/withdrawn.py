"""Find withdrawn works in the chain's history.

Owns an index of the withdrawals, for which history is scanned only once. An entry may be from a
block that a reorganisation has replaced, so read the work's present state before acting on it.
"""

from __future__ import annotations

import asyncio

from viz.chain import abi
from viz.chain.registrations import REORG_BLOCKS
from viz.chain.rpc import Rpc
from viz.chain.scan import scan
from viz.domain.units import Address, ContentId

_CONTRACT = "ContentRegistry"


class Withdrawals:
    """Finds withdrawn works in the logs of ContentRegistry."""

    def __init__(self, rpc: Rpc, registry: Address, first_block: int) -> None:
        self._rpc, self._registry = rpc, registry
        self._first_block = self._next_block = first_block
        self._found: set[ContentId] = set()
        self._scanning = asyncio.Lock()

    async def works(self) -> frozenset[ContentId]:
        """Return all works that were ever withdrawn; raise ChainUnreachable."""
        async with self._scanning:
            head = await self._rpc.block_number()
            topics = (abi.event_topic(_CONTRACT, "ContentWithdrawn"),)
            first = min(self._next_block, head)
            async for log in scan(self._rpc, [self._registry], first, head, topics):
                decoded = abi.decode_event(_CONTRACT, log.topics, log.data)
                if decoded is not None:
                    self._found.add(ContentId(decoded[1]["contentId"]))
            self._next_block = max(self._first_block, head - REORG_BLOCKS + 1)
            return frozenset(self._found)
