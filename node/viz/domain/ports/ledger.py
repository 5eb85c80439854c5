"""What the node must not forget: the records of its ledger, and the Protocols that keep them.

Owns the shape of what is stored, not how. A record is a value: a changed one is a new one, and a
``commit`` has happened, durably, when the awaited call returns. Money is cumulative everywhere: a
stored amount never falls, so a lost write can only understate what is owed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from viz.domain.card import ReportCard
from viz.domain.units import ZERO_HASH, AdapterId, Address, Cid, ContentId, Hash32, Units


@dataclass(frozen=True, slots=True)
class ChannelLineRecord:
    """One adapter's part of a channel; all amounts since the channel's first voucher."""

    base_units: Units = 0
    accepted_units: Units = 0
    spent_units: Units = 0


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """A buyer's channel to this node.

    ``base_units`` is the settled total that a voucher must name now. The best voucher's lines are
    ``accepted - base`` of each line; ``signature`` is empty while there is none on this base.
    ``voucher_head`` is the receipts head that it signs and ``voucher_seq`` that head's number.
    ``head`` and ``seq`` end the chain of receipts whose amounts sum to ``total_units``. Nothing is
    sold before ``closed_until``, in seconds. ``version`` is the ledger's: 0 before the first save.
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
        """Return the lines of the best voucher on the present base; empty when there is none."""
        due = {key: line.accepted_units - line.base_units for key, line in self.lines.items()}
        return {key: amount for key, amount in sorted(due.items()) if amount}


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A signed receipt; ``body`` is the JSON that the buyer was given."""

    signer: Address
    seq: int
    head: Hash32
    digest: Hash32
    body: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class UnbilledRecord:
    """What a request has booked as spent and no receipt names yet: all that a receipt needs.

    Both hashes are salted; the response's is that of the text which ``completion_tokens`` counts.
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
    """The answer stored under one access token's idempotency key; the body is kept for a while."""

    scope: bytes
    key: str
    request_hash: Hash32
    response_hash: Hash32
    status: int
    content_type: str
    body: bytes | None
    created_at: int


class ChannelLedger(Protocol):
    """Channels with what was signed, spent and receipted."""

    def require_room(self) -> None:
        """Raise StoreFull where there is too little room to begin anything new."""
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
        """Save all of it or nothing; return the channel with its new version.

        ``point`` names the commit point; ``touched`` the lines that changed, None all of them.
        ``unbilled`` is what requests under way have booked until now, each in place of what it had
        before; ``billed`` the request that ``receipt`` bills, of which nothing is kept then.
        Raises StoreConflict when the stored version is not ``channel.version``: read again and
        redo.
        """
        ...

    async def receipt_seq(self, signer: Address, head: Hash32) -> int | None:
        """Return the number of the receipt that ends in ``head``; 0 for the zero hash."""
        ...

    async def heads(self, signer: Address, after: int) -> Sequence[Hash32]:
        """Return the heads of the receipts after that number, the oldest first, at most 4096."""
        ...

    async def receipts(
        self, signer: Address, *, after: int = 0, limit: int = 256
    ) -> Sequence[ReceiptRecord]: ...

    async def unbilled(self) -> Sequence[UnbilledRecord]:
        """Return the requests that booked something and were not billed, the eldest first."""
        ...

    async def answer(self, scope: bytes, key: str) -> AnswerRecord | None: ...

    async def forget_answers(self, before: int) -> int:
        """Drop the bodies of answers stored before that second; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """Who an access token stands for. The token itself is never stored, only its hash."""

    token_hash: Hash32
    signer: Address
    expires_at: int


TOKENS_EACH: Final = 8
"""A signer has so many access tokens at most; a new one replaces the oldest."""


class AccessLedger(Protocol):
    """Access tokens and the challenges that were answered."""

    async def admit(self, challenge: Hash32, access: AccessRecord) -> bool:
        """Store the token if its challenge was not used before; return whether it was stored.

        Drops what the signer has beyond TOKENS_EACH.
        """
        ...

    async def access(self, token_hash: Hash32) -> AccessRecord | None: ...

    async def forget_access(self, before: int) -> int:
        """Drop tokens and challenges that expired before that second; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class OfferedWork:
    """A work that an adapter was trained on; ``title`` is the node's word, empty if unknown."""

    content_id: ContentId
    title: str = ""


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter that this node serves; ``path`` names its plain weights file."""

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


class AdapterCatalogue(Protocol):
    """The adapters that this node serves."""

    async def put_adapter(self, adapter: AdapterRecord) -> None: ...

    async def drop_adapter(self, adapter_id: AdapterId) -> None: ...

    async def adapters(self) -> Sequence[AdapterRecord]: ...


TrainingState = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A training run: what was asked, where it stands, and what came of it (plain JSON values)."""

    training_id: str
    state: TrainingState
    request: Mapping[str, Any]
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    created_at: int = 0
    updated_at: int = 0


class TrainingLedger(Protocol):
    """Training runs, so that a restarted node knows which were cut off."""

    def require_room(self) -> None: ...

    async def put_training(self, training: TrainingRecord) -> None: ...

    async def training(self, training_id: str) -> TrainingRecord | None: ...

    async def trainings(self) -> Sequence[TrainingRecord]: ...


class Ledger(ChannelLedger, AccessLedger, AdapterCatalogue, TrainingLedger, Protocol):
    """What the serving side keeps; the chain's side keeps its own beside it (``domain.outbox``)."""

    async def close(self) -> None: ...
