"""How long a transaction may stand first in line before it is offered more.

Owns the count of blocks that went by without it. Does not know fees, nor how a transaction is sent.
Counts blocks, not seconds: a chain that makes none is not waiting for a better offer. Invariant:
only the transaction with the account's next nonce loses patience; those behind it wait for it, and
a higher fee of theirs would change nothing.
"""

from __future__ import annotations

from typing import Final

from viz.chain.rpc import Rpc
from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.units import Hash32

# Fees are signed to be good for several full blocks: ten that leave it out want a better tip.
STUCK_BLOCKS: Final = 10


class StuckPolicy:
    """The waiting of one account's transactions, as far as this process saw it."""

    def __init__(self, rpc: Rpc, blocks: int = STUCK_BLOCKS) -> None:
        self._rpc = rpc
        self._blocks = blocks
        self._since: dict[int, tuple[Hash32, int]] = {}

    async def is_over(self, entry: SignedTransaction) -> bool:
        """Return whether the blocks since the first call for it, in its turn, are too many.

        Where they are, counting begins anew. Raises ChainUnreachable.
        """
        if await self._rpc.mined_count(entry.sender) != entry.nonce:
            self.forget(entry.nonce)
            return False
        head = await self._rpc.block_number()
        counted, first = self._since.get(entry.nonce, (None, 0))
        if counted == entry.hash and first <= head < first + self._blocks:
            return False
        self._since[entry.nonce] = entry.hash, head
        return counted == entry.hash and head >= first + self._blocks

    def forget(self, nonce: int) -> None:
        """Count nothing for a nonce that was used, or whose turn it is not."""
        self._since.pop(nonce, None)
