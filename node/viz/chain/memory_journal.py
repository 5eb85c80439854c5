"""Keep a journal of transactions in memory, for scripts; a daemon uses its ledger instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.ports.transactions import Outcome
from viz.domain.units import Address, Hash32


class MemoryJournal:
    """A journal that is lost at exit: for scripts that sign, wait for the result, and end."""

    def __init__(self) -> None:
        self._all: dict[Hash32, SignedTransaction] = {}
        self._pending: set[Hash32] = set()

    async def record(self, transaction: SignedTransaction) -> None:
        """Store the transaction; it is pending until it is resolved."""
        self._all[transaction.hash] = transaction
        self._pending.add(transaction.hash)

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        """Note that a transaction's outcome is known."""
        self._pending.discard(transaction_hash)
        if outcome is Outcome.FAILED:
            self._all[transaction_hash] = replace(self._all[transaction_hash], failed=True)

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        """Return the unresolved transactions of a key, by nonce."""
        return [each for each in self._of(sender) if each.hash in self._pending]

    async def described(self, sender: Address, description: str) -> Sequence[SignedTransaction]:
        """Return the transactions of a key with this description, by nonce."""
        return [each for each in self._of(sender) if each.description == description]

    def _of(self, sender: Address) -> list[SignedTransaction]:
        mine = [entry for entry in self._all.values() if entry.sender == sender]
        return sorted(mine, key=lambda entry: entry.nonce)
