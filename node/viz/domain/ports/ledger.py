"""Define the durable records of the node's ledger, and their Protocols.

A record is an immutable value: a change makes a new record. A ``commit`` is durable when the
awaited call returns. Amounts are cumulative everywhere: a stored amount never falls, so a lost
write can only understate what a buyer has to pay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from viz.domain.card import ReportCard
from viz.domain.ports.services import AdapterEnd
from viz.domain.units import ZERO_HASH, AdapterId, Address, Cid, ContentId, Hash32, Units


@dataclass(frozen=True, slots=True)
class ChannelLineRecord:
    """One adapter's part of a channel; all amounts count from the channel's first voucher."""

    base_units: Units = 0
    accepted_units: Units = 0
    spent_units: Units = 0


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """A buyer's channel to this node.

    ``base_units`` is the settled total that a voucher must name now. The best voucher's lines are
    ``accepted - base`` of each line; ``signature`` is its signature, empty while there is no
    voucher on this base. ``voucher_head`` is the receipts head that the voucher signs, and
    ``voucher_seq`` the number of that receipt. ``head`` and ``seq`` belong to the last receipt; the
    receipts' amounts sum to ``total_units``. Nothing is sold before ``closed_until``, in seconds.
    ``version`` is set by the ledger: 0 before the first save.
    """

    signer: Address
    base_units: Units = 0
    lines: Mapping[AdapterId, ChannelLineRecord] = field(default_factory=dict)
    signature: bytes = b""
    voucher_head: Hash32 = ZERO_HASH
    voucher_seq: int = 0
    head: Hash32 = ZERO_HASH
    seq: int = 0
    total_units: Units = 0
    closed_until: int = 0
    voucher_at: int = 0
    version: int = 0

    def unclaimed(self) -> dict[AdapterId, Units]:
        """Return the lines of the best voucher on the present base; empty if there is none."""
        due = {key: line.accepted_units - line.base_units for key, line in self.lines.items()}
        return {key: amount for key, amount in sorted(due.items()) if amount}


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A signed receipt; ``body`` is the JSON that the buyer received."""

    signer: Address
    seq: int
    head: Hash32
    digest: Hash32
    body: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class UnbilledRecord:
    """A request's spent amount that no receipt names yet, with all data for its receipt.

    Both hashes are salted; ``response_hash`` is of the text that ``completion_tokens`` counts.
    """

    request_id: bytes
    signer: Address
    adapter_id: AdapterId
    amount_units: Units
    prompt_tokens: int
    completion_tokens: int
    quote_hash: Hash32
    request_salt: Hash32
    request_hash: Hash32
    response_salt: Hash32
    response_hash: Hash32


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """The answer stored under an access token's idempotency key; ``body`` is deleted later."""

    scope: bytes
    key: str
    request_hash: Hash32
    response_hash: Hash32
    status: int
    content_type: str
    body: bytes | None
    created_at: int


class ChannelLedger(Protocol):
    """Channels with their signed and spent amounts, receipts and answers."""

    def require_room(self) -> None:
        """Raise StoreFull if there is too little disk space for new work."""
        ...

    async def channel(self, signer: Address) -> ChannelRecord | None: ...

    async def channels(self) -> Sequence[ChannelRecord]: ...

    async def commit(
        self,
        point: str,
        channel: ChannelRecord,
        *,
        touched: Collection[AdapterId] | None = None,
        receipt: ReceiptRecord | None = None,
        answer: AnswerRecord | None = None,
        unbilled: Sequence[UnbilledRecord] = (),
        billed: bytes | None = None,
    ) -> ChannelRecord:
        """Save everything or nothing; return the channel with its new version.

        ``point`` names the commit point. ``touched`` names the changed lines; None means all.
        ``unbilled`` holds the running requests' amounts until now; each replaces the request's
        earlier record. ``billed`` is the request that ``receipt`` bills; its unbilled record is
        deleted. Raises StoreConflict if the stored version is not ``channel.version``: read the
        channel again and repeat.
        """
        ...

    async def receipt_seq(self, signer: Address, head: Hash32) -> int | None:
        """Return the number of the receipt whose hash is ``head``; 0 for the zero hash."""
        ...

    async def heads(self, signer: Address, after: int) -> Sequence[Hash32]:
        """Return the heads of the receipts after this number, oldest first, at most 4096."""
        ...

    async def receipts(
        self, signer: Address, *, after: int = 0, limit: int = 256
    ) -> Sequence[ReceiptRecord]: ...

    async def unbilled(self) -> Sequence[UnbilledRecord]:
        """Return the requests with a recorded amount and no receipt, oldest first."""
        ...

    async def answer(self, scope: bytes, key: str) -> AnswerRecord | None: ...

    async def forget_answers(self, before: int) -> int:
        """Delete the bodies of answers stored before this second; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """The signer of an access token; only the token's hash is stored, never the token."""

    token_hash: Hash32
    signer: Address
    expires_at: int


TOKENS_EACH: Final = 8
"""The most access tokens of one signer; a new one replaces the oldest."""


class AccessLedger(Protocol):
    """Access tokens, and the challenges for which they were issued."""

    async def admit(self, challenge: Hash32, access: AccessRecord) -> bool:
        """Store the token if its challenge was not used before; return whether it was stored.

        Deletes the signer's oldest tokens beyond TOKENS_EACH.
        """
        ...

    async def access(self, token_hash: Hash32) -> AccessRecord | None: ...

    async def forget_access(self, before: int) -> int:
        """Delete tokens and challenges that expired before this second; return how many."""
        ...


class ExpiringLedger(Protocol):
    """What maintenance needs: the deletion of expired rows."""

    async def forget_answers(self, before: int) -> int:
        """Delete the bodies of answers stored before this second; return how many."""
        ...

    async def forget_access(self, before: int) -> int:
        """Delete tokens and challenges that expired before this second; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class OfferedWork:
    """A work that an adapter was trained on; ``title`` is from the node, empty if unknown."""

    content_id: ContentId
    title: str = ""


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter that this node serves; ``path`` is its plain weights file."""

    adapter_id: AdapterId
    name: str
    description: str
    base_model: Hash32
    weights_digest: Hash32
    cid: Cid
    manifest_hash: Hash32
    path: str
    prompt_units_per_million: Units
    completion_units_per_million: Units
    created_at: int
    works: tuple[OfferedWork, ...] = ()
    card: ReportCard | None = None


@dataclass(frozen=True, slots=True)
class EndedAdapter:
    """An ended adapter of this node: why it ended, and where its weights were."""

    adapter_id: AdapterId
    end: AdapterEnd
    weights_digest: Hash32
    cid: Cid


class AdapterEnds(Protocol):
    """The ended adapters of this node, and the successors of adapters."""

    async def put_end(self, ended: EndedAdapter) -> None: ...

    async def ended(self) -> Sequence[EndedAdapter]:
        """Return all ended adapters by id, also those that were dropped afterwards."""
        ...

    async def put_successor(self, adapter_id: AdapterId, successor_id: AdapterId) -> None:
        """Set an adapter's successor, in place of an earlier one."""
        ...

    async def successors(self) -> Mapping[AdapterId, AdapterId]: ...


class AdapterCatalogue(AdapterEnds, Protocol):
    """The adapters that this node serves."""

    async def put_adapter(self, adapter: AdapterRecord) -> None: ...

    async def drop_adapter(self, adapter_id: AdapterId) -> None: ...

    async def adapters(self) -> Sequence[AdapterRecord]: ...


TrainingState = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A training run: its request, progress and result, as plain JSON values."""

    training_id: str
    state: TrainingState
    request: Mapping[str, Any]
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    created_at: int = 0
    updated_at: int = 0

    @property
    def ended(self) -> bool:
        """Whether the run ended, well or not, or was cancelled."""
        return self.state in ("done", "failed", "cancelled")


class TrainingLedger(Protocol):
    """Training runs, so that a restarted node knows which were interrupted."""

    def require_room(self) -> None: ...

    async def put_training(self, training: TrainingRecord) -> None: ...

    async def training(self, training_id: str) -> TrainingRecord | None: ...

    async def trainings(self) -> Sequence[TrainingRecord]: ...


class ErasableTrainings(TrainingLedger, Protocol):
    """Training runs whose earlier content can be erased."""

    async def leave_no_trace(self) -> None:
        """Remove the old content of changed rows from the ledger's files.

        Does nothing for a database server, which manages its own files.
        """
        ...


class Ledger(ChannelLedger, AccessLedger, AdapterCatalogue, ErasableTrainings, Protocol):
    """The ledger for serving; ``viz.domain.ports.settlement_ledger`` has that for settlement."""

    def answering(self) -> AbstractContextManager[None]:
        """Count one client's request while the context is open: a lone one is committed faster."""
        ...

    async def close(self) -> None: ...
