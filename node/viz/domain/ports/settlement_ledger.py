"""What the chain's side keeps on disk: transactions under way, the watcher's place, claim rows.

Owns the records and the Protocols that keep them, as ``viz.domain.ports.ledger`` does for the
serving side. Does not know how they are stored. A method has happened, durably, when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from viz.domain.ports.ledger import ChannelRecord, Ledger
from viz.domain.ports.transactions import Outcome
from viz.domain.units import AdapterId, Address, Hash32, Units


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction as signed: recorded before it is broadcast, known by its hash ever after."""

    hash: Hash32
    sender: Address
    nonce: int
    raw: bytes
    description: str


class TransactionJournal(Protocol):
    """The sender's transactions whose outcome is not known yet."""

    async def record(self, transaction: SignedTransaction) -> None:
        """Save it, durably, before it is broadcast."""
        ...

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        """Save its end: SETTLED or FAILED."""
        ...

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        """Return those without an end, by ascending nonce."""
        ...


@dataclass(frozen=True, slots=True)
class BlockMark:
    """A block up to which logs were handled."""

    number: int
    hash: Hash32


class CursorStore(Protocol):
    """How far the watcher is, and enough past blocks to find where a reorganisation began."""

    async def marks(self) -> Sequence[BlockMark]:
        """Return the marks kept, newest first; empty before the first."""
        ...

    async def advance(self, mark: BlockMark) -> None:
        """Add a mark above all others; the oldest beyond some hundreds may be forgotten."""
        ...

    async def rollback(self, above: int) -> None:
        """Forget the marks of blocks above that number."""
        ...


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A claim row: one voucher that no longer changes. ``lines`` ascend by adapter."""

    claim_id: int
    signer: Address
    base_units: Units
    lines: tuple[tuple[AdapterId, Units], ...]
    receipts_head: Hash32
    signature: bytes
    frozen_at: int

    @property
    def end_units(self) -> Units:
        """Return the channel's settled total after this row."""
        return self.base_units + sum(amount for _, amount in self.lines)


class SettlementLedger(Protocol):
    """What the claim loop needs of the books; every method is one commit."""

    async def channels(self) -> Sequence[ChannelRecord]: ...

    async def freeze(self, signer: Address, *, now_s: int) -> ClaimRecord | None:
        """Make the channel's best voucher a claim row, and rebase the channel onto its end point.

        In the same commit: the row is stored; the channel's ``base_units`` becomes the row's
        ``end_units``, each line's ``base_units`` its ``accepted_units``, and the voucher's
        signature is cleared, so that only vouchers on the end point raise ``accepted`` from now
        on. None when there is no unclaimed voucher.
        """
        ...

    async def frozen(self) -> Sequence[ClaimRecord]:
        """Return the rows not finished, each channel's in the order of their bases."""
        ...

    async def finish(self, claim_id: int, end: Literal["settled", "dropped"], note: str) -> None:
        """Close a row: ``settled`` when the chain's total reached its end point, else dropped."""
        ...

    async def take_up_dropped(self) -> None:
        """Open every dropped row again: it is among the frozen ones from now on."""
        ...


class Store(Ledger, SettlementLedger, TransactionJournal, CursorStore, Protocol):
    """All that a node keeps: what it serves by and what it settles by, in one place.

    After ``close`` every method raises StoreError.
    """
