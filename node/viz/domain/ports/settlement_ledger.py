"""Define the durable records of settlement: transactions, the watcher's cursor, claim rows.

Owns these records and their Protocols, as ``viz.domain.ports.ledger`` does for serving. When a
method returns, its effect is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from viz.domain.ports.custody import CustodyLedger
from viz.domain.ports.ledger import ChannelLedger, ChannelRecord, Ledger
from viz.domain.ports.listings import ListingLedger
from viz.domain.ports.notices import NoticeLedger
from viz.domain.ports.transactions import Outcome
from viz.domain.units import AdapterId, Address, Hash32, Units


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A signed transaction: recorded before its broadcast, and identified by its hash.

    ``failed`` is whether it has ended as FAILED; of a refused one the chain knows nothing.
    """

    hash: Hash32
    sender: Address
    nonce: int
    raw: bytes
    description: str
    failed: bool = False


class TransactionJournal(Protocol):
    """The sender's transactions, and their outcomes as far as they are known."""

    async def record(self, transaction: SignedTransaction) -> None:
        """Save a transaction before its broadcast."""
        ...

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        """Save a transaction's outcome: MINED or FAILED."""
        ...

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        """Return the sender's transactions without an outcome, by ascending nonce."""
        ...

    async def described(self, sender: Address, description: str) -> Sequence[SignedTransaction]:
        """Return the sender's transactions of this description, ended ones too, by nonce."""
        ...


@dataclass(frozen=True, slots=True)
class BlockMark:
    """A block up to which all logs were handled."""

    number: int
    hash: Hash32


class CursorStore(Protocol):
    """The blocks that the watcher handled: enough to find where a reorganisation began."""

    async def marks(self) -> Sequence[BlockMark]:
        """Return the stored marks, newest first; empty before the first."""
        ...

    async def advance(self, mark: BlockMark) -> None:
        """Add a mark above all others; only some hundreds of the newest need to be kept."""
        ...

    async def rollback(self, above: int) -> None:
        """Delete the marks of blocks above this number."""
        ...


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A claim row: one frozen voucher; ``lines`` are sorted by adapter."""

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


class ChannelStoreLedger(ChannelLedger, Protocol):
    """The ledger's channels and the claim rows that are under way."""

    async def frozen(self) -> Sequence[ClaimRecord]: ...


class ComparedLedger(Protocol):
    """What reconciliation compares with the chain: channels, and unfinished claim rows."""

    async def channels(self) -> Sequence[ChannelRecord]: ...

    async def frozen(self) -> Sequence[ClaimRecord]:
        """Return the unfinished rows, each channel's in the order of their bases."""
        ...


class SettlementLedger(ComparedLedger, Protocol):
    """What the claim loop needs from the ledger; every method is one commit."""

    async def freeze(self, signer: Address, *, now_s: int) -> ClaimRecord | None:
        """Make a claim row of the channel's best voucher, and move the channel's base to its end.

        All in one commit: the row is stored; the channel's ``base_units`` becomes the row's
        ``end_units``, and each line's ``base_units`` becomes its ``accepted_units``; the voucher's
        signature is cleared. So from then on only vouchers on the new base raise ``accepted``.
        Returns None if there is no unclaimed voucher.
        """
        ...

    async def finish(self, claim_id: int, end: Literal["settled", "dropped"], note: str) -> None:
        """Finish a row: ``settled`` if the chain's total reached its end, otherwise ``dropped``."""
        ...

    async def take_up_dropped(self) -> None:
        """Reopen every dropped row, so that ``frozen`` returns it again."""
        ...


class Store(
    Ledger,
    SettlementLedger,
    TransactionJournal,
    CursorStore,
    ListingLedger,
    CustodyLedger,
    NoticeLedger,
    Protocol,
):
    """The whole ledger of a node: for serving and for settlement.

    After ``close`` every method raises StoreError.
    """
