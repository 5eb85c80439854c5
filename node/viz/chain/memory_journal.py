"""Keep a journal of transactions in memory, for scripts; a daemon uses its ledger instead."""

from __future__ import annotations

from collections.abc import Sequence

from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.ports.transactions import Outcome
from viz.domain.units import Address, Hash32


class MemoryJournal:
    """A journal that is lost at exit: for scripts that sign, wait for the result, and end."""

    def __init__(self) -> None:
        self._pending: dict[Hash32, SignedTransaction] = {}

    async def record(self, transaction: SignedTransaction) -> None:
        """Store the transaction until it is resolved."""
        self._pending[transaction.hash] = transaction

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        """Remove a transaction whose outcome is known."""
        self._pending.pop(transaction_hash, None)

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        """Return the unresolved transactions of a key, by nonce."""
        mine = [entry for entry in self._pending.values() if entry.sender == sender]
        return sorted(mine, key=lambda entry: entry.nonce)
