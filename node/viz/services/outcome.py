"""What a service does with a transaction's outcome: go on, or say clearly what is known."""

from __future__ import annotations

from viz.domain.ports.transactions import Outcome, Transaction
from viz.domain.units import hex_of
from viz.errors import OutcomeUnknown, TransactionFailed


def require_settled(transaction: Transaction, what: str) -> Transaction:
    """Return a settled transaction; raise TransactionFailed or OutcomeUnknown for any other."""
    if transaction.outcome is Outcome.SETTLED:
        return transaction
    name = hex_of(transaction.hash)
    if transaction.outcome is Outcome.FAILED:
        raise TransactionFailed(f"{what} failed: {transaction.error} (transaction {name})")
    raise OutcomeUnknown(
        f"{what} was sent and is {transaction.outcome.value}: look up transaction {name} before "
        "trying again",
        transaction=name,
    )
