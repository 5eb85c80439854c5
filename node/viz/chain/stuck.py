"""Decide when a transaction is stuck, so that its fee should be raised.

Counts the blocks that did not include a transaction although its nonce was the account's next. It
counts blocks and not seconds, because a higher fee does not help on a chain that makes no blocks.
Invariant: only the transaction with the account's next nonce can be stuck; those with later nonces
wait for it, and a higher fee would not help them.
"""

from __future__ import annotations

from typing import Final

from viz.chain.rpc import Rpc
from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.units import Hash32

# The fees that are signed stay high enough for several full blocks. If ten blocks leave the
# transaction out, its tip is too low.
STUCK_BLOCKS: Final = 10


class StuckPolicy:
    """Counts how many blocks the transactions of one account have waited in this process."""

    def __init__(self, rpc: Rpc, blocks: int = STUCK_BLOCKS) -> None:
        self._rpc = rpc
        self._blocks = blocks
        # By nonce: the transaction that waits, and the head when the count began.
        self._since: dict[int, tuple[Hash32, int]] = {}

    async def is_stuck(self, entry: SignedTransaction, mined: int | None = None) -> bool:
        """Return whether too many blocks passed since the first call while its nonce is the next.

        ``mined`` is how many transactions of the account are in blocks; None to ask for it. After
        True the count begins again. Raises ChainUnreachable.
        """
        if mined is None:
            mined = await self._rpc.mined_count(entry.sender)
        if mined != entry.nonce:
            self.forget(entry.nonce)
            return False
        head = await self._rpc.block_number()
        counted, first = self._since.get(entry.nonce, (None, 0))
        if counted == entry.hash and first <= head < first + self._blocks:
            return False
        self._since[entry.nonce] = entry.hash, head
        return counted == entry.hash and head >= first + self._blocks

    def forget(self, nonce: int) -> None:
        """Delete the count of a nonce that was used, or is not the next one."""
        self._since.pop(nonce, None)
