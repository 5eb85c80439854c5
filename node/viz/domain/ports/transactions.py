"""Define contract calls, their transactions and results, and the Protocol of the sender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, Self

from viz.domain.units import Address, Hash32, hex_of
from viz.errors import OutcomeUnknown, TransactionFailed


class Outcome(Enum):
    """The outcome of a transaction; look up an UNKNOWN one by its hash before sending again."""

    MINED = "mined"
    FAILED = "failed"
    PENDING = "pending"
    UNKNOWN = "unknown"

    @property
    def undecided(self) -> bool:
        """Whether the transaction may still be mined."""
        return self in (Outcome.PENDING, Outcome.UNKNOWN)


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
    """The outcome of one submitted transaction and, if it was mined, its decoded events."""

    outcome: Outcome
    hash: Hash32
    block_number: int | None = None
    gas_used: int | None = None
    error: str | None = None
    events: tuple[Event, ...] = ()
    what: str = ""  # contract and function, as ``Settlement.claim``; set by ``recover``

    def event(self, name: str) -> Event:
        """Return the first event with this name.

        Raises OutcomeUnknown if there is none: the endpoint did not report it.
        """
        for found in self.events:
            if found.name == name:
                return found
        raise OutcomeUnknown(
            f"transaction {hex_of(self.hash)} is in a block, but the chain's endpoint reports no "
            f"event {name} of it: look it up before you try again",
            transaction=hex_of(self.hash),
        )

    def require_mined(self, what: str) -> Self:
        """Return this transaction if it was mined and did not revert.

        ``what`` names it in the error. Raises TransactionFailed, and OutcomeUnknown for one whose
        end is not known yet.
        """
        if self.outcome is Outcome.MINED:
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
    """A contract call: contract, function, and arguments in ABI order."""

    contract: str
    function: str
    args: tuple[Any, ...] = field(default=())


class ChainWriter(Protocol):
    """The only sender of one key."""

    @property
    def address(self) -> Address: ...

    @property
    def fees_raised(self) -> int:
        """How many times this process raised the fee of a stuck transaction."""
        ...

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        """Simulate, sign, record and broadcast a call, and wait a bounded time for its block.

        Raises TransactionFailed with the decoded custom error if the simulation reverts, and if a
        block has no room for it; TooMuchGas if it needs more gas than the endpoint, or the chain,
        allows one transaction, InsufficientFunds if the account cannot pay, GasAboveLimit if it
        needs more than ``max_gas``, and FeeTooHigh if gas costs more than the operator's bound, or
        four times that if the call is ``urgent``. After any ChainError, nothing was sent. The
        returned outcome is MINED, FAILED, PENDING or UNKNOWN. If a replacement was mined, the
        result has its hash.
        """
        ...

    async def simulate(self, call: Call) -> Any:
        """Return what the call would return now from this account, without sending it.

        Raises TransactionFailed with the decoded custom error.
        """
        ...

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return a transaction's state by its hash."""
        ...

    async def earlier(self, call: Call, part: bytes) -> Sequence[Transaction]:
        """Return the present states of this key's earlier calls of the same function.

        Only those whose arguments hold the bytes ``part``. The journal knows them, also those of
        earlier processes, whatever their outcome. Nothing is sent.
        """
        ...

    async def recover(self, *, urgent: bool = False) -> Sequence[Transaction]:
        """Look up every recorded transaction without a known end, and return them.

        If the chain lost one, the same bytes are broadcast again. If its fee is too low, it is
        replaced at a higher fee (``urgent`` as in ``submit``). Call it after a restart, and again
        while any is PENDING or UNKNOWN.
        """
        ...
