"""A journal of transactions in memory, for scripts; a daemon's is its ledger (``viz.store``)."""

from __future__ import annotations

from collections.abc import Sequence

from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.ports.transactions import Outcome
from viz.domain.units import Address, Hash32


class MemoryJournal:
    """A journal that forgets at exit: for scripts that sign, wait and end."""

    def __init__(self) -> None:
        self._pending: dict[Hash32, SignedTransaction] = {}

    async def record(self, transaction: SignedTransaction) -> None:
        """Keep the transaction until it is resolved."""
        self._pending[transaction.hash] = transaction

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        """Forget it: its outcome is known."""
        self._pending.pop(transaction_hash, None)

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        """Return the unresolved transactions of a key, by nonce."""
        mine = [entry for entry in self._pending.values() if entry.sender == sender]
        return sorted(mine, key=lambda entry: entry.nonce)
