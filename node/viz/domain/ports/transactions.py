"""What is asked of the chain's contracts, and what became of it.

Owns the call, its transaction with the events, and the Protocol of the one who sends. Does not know
what any contract holds (``viz.domain.ports.chain``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, Self

from viz.domain.units import Address, Hash32, hex_of
from viz.errors import OutcomeUnknown, TransactionFailed


class Outcome(Enum):
    """What became of a transaction; UNKNOWN is looked up by hash, never resent blind."""

    SETTLED = "settled"
    FAILED = "failed"
    PENDING = "pending"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded log. ``args`` follow the ABI: ints, checksummed addresses, bytes."""

    contract: str
    name: str
    args: Mapping[str, Any]
    block_number: int
    block_hash: Hash32
    transaction_hash: Hash32
    log_index: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """The outcome of one submitted transaction and, when settled, its decoded events."""

    outcome: Outcome
    hash: Hash32
    block_number: int | None = None
    gas_used: int | None = None
    error: str | None = None
    events: tuple[Event, ...] = ()
    what: str = ""  # contract and function, as ``Settlement.claim``; set by ``recover``

    def event(self, name: str) -> Event:
        """Return the first event of that name.

        Raises OutcomeUnknown where there is none: the endpoint left out what happened.
        """
        for found in self.events:
            if found.name == name:
                return found
        raise OutcomeUnknown(
            f"transaction {hex_of(self.hash)} is in a block, but the chain's endpoint serves no "
            f"event {name} of it: look it up before trying again",
            transaction=hex_of(self.hash),
        )

    def require_settled(self, what: str) -> Self:
        """Return this transaction if it settled.

        ``what`` names it in the error. Raises TransactionFailed, and OutcomeUnknown for one whose
        end is not known yet.
        """
        if self.outcome is Outcome.SETTLED:
            return self
        name = hex_of(self.hash)
        if self.outcome is Outcome.FAILED:
            raise TransactionFailed(f"{what} failed: {self.error} (transaction {name})")
        raise OutcomeUnknown(
            f"{what} was sent and is {self.outcome.value}: look up transaction {name} before "
            "trying again",
            transaction=name,
        )


@dataclass(frozen=True, slots=True)
class Call:
    """A contract call: which contract, which function, which arguments (ABI order)."""

    contract: str
    function: str
    args: tuple[Any, ...] = field(default=())


class ChainWriter(Protocol):
    """The one sender of one key."""

    @property
    def address(self) -> Address: ...

    @property
    def fees_raised(self) -> int:
        """How often this process offered more for a transaction that no block took."""
        ...

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        """Simulate, sign, record, broadcast and wait (bounded) for one confirmation.

        A revert in the simulation raises TransactionFailed with the decoded custom error. No more
        than ``max_gas`` is ever paid for: GasAboveLimit. FeeTooHigh while gas costs more than the
        operator pays, or four times that where it is ``urgent``. Whatever is raised as a
        ChainError, nothing was sent. The returned outcome is SETTLED, FAILED, PENDING or UNKNOWN;
        its hash is that of the transaction that was mined, where one replaced another.
        """
        ...

    async def simulate(self, call: Call) -> Any:
        """Return what the call would return now, from this account; send nothing.

        Raises TransactionFailed with the decoded custom error.
        """
        ...

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return what became of a transaction by its hash."""
        ...

    async def recover(self, *, urgent: bool = False) -> Sequence[Transaction]:
        """Look up every recorded transaction without a known end, and return them.

        One that the chain forgot is broadcast again, byte for byte; one whose fee no block takes
        is replaced at a higher one, ``urgent`` as in ``submit``. Call it after a restart,
        and again while any is PENDING or UNKNOWN.
        """
        ...
