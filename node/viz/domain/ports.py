"""What the services see of the outside: small Protocols and the values that cross them.

Owns no behaviour; the Store's Protocols are in ``viz.domain.ledger`` and ``viz.domain.outbox``.
Each is implemented for real (``viz.chain``, ``viz.storage``, ``viz.store``, ``viz.engine``) and
once in ``tests/fakes``, and one behaviour suite runs on both: ``test_blob_stores.py`` in
tests/integration/storage, ``test_behaviour.py`` in tests/unit/store and tests/unit/engine, and
``test_chain_behaviour.py`` in tests/integration/services (Settlement's channels alone: the fake
chain knows no works). Every method that waits on the outside is async, bounded in time, and raises
only classes of ``viz.errors``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

from viz.domain.units import AdapterId, Address, Cid, ContentId, Hash32, Units


class Clock(Protocol):
    """Wall-clock seconds since the epoch; chain deadlines are read from chain time instead."""

    def now_s(self) -> int: ...


# blobs


class BlobStore(Protocol):
    """Bytes by CIDv1; whatever it returns hashes to the name it was asked for."""

    async def add(self, source: Path | bytes) -> Cid:
        """Store and pin the bytes; return their CID (raw leaves, 256 KiB chunks).

        Raises BlobCorrupt, StorageUnavailable (also when the file cannot be read).
        """
        ...

    async def fetch(self, cid: Cid, target: Path, *, max_bytes: int) -> int:
        """Write the blob to ``target``, whole or not at all, and return its size in bytes.

        Raises InvalidRequest for what is no CID of ours, as every method does; BlobNotFound,
        BlobCorrupt, BlobTooLarge, StorageUnavailable.
        """
        ...

    async def has(self, cid: Cid) -> bool:
        """Return whether the blob is here, without asking anybody else."""
        ...

    async def pin(self, cid: Cid) -> None:
        """Keep the blob; once is enough. Raises BlobNotFound when it is not here."""
        ...

    async def unpin(self, cid: Cid) -> None:
        """Let the blob go when space is needed; no error when it was not pinned."""
        ...

    async def close(self) -> None: ...


# the engine


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The frozen model that every adapter belongs to.

    No token stands for more than ``longest_token_bytes`` of UTF-8 text.
    """

    name: str
    digest: Hash32
    tokenizer_digest: Hash32
    context_tokens: int
    vocabulary: int
    longest_token_bytes: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; ``temperature`` 0 is greedy."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue. ``prompt`` is token ids, made by ``render`` or ``encode``."""

    request_id: str
    prompt: tuple[int, ...]
    adapter_id: AdapterId
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One candidate token with its natural-log probability.

    ``raw`` is its bytes, perhaps part of a character; None for a control token, which has none.
    """

    token: str
    token_id: int
    logprob: float
    raw: bytes | None


FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some new text (possibly empty while a character is incomplete) and the tokens behind it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class Generation(Protocol):
    """A running sequence: an async iterator of pieces, held to an allowance of tokens."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    async def __anext__(self) -> Piece: ...

    def allow(self, total_tokens: int) -> None:
        """Let the sequence reach ``total_tokens`` generated tokens; never lowers it.

        Without any call there is no bound but max_tokens. At the bound the sequence pauses: its
        cache stays for the engine's grace time, then its slot goes to others and the cache is
        rebuilt when it is allowed on.
        """
        ...

    async def cancel(self) -> None:
        """Stop within one step and free the slot; safe to call at any time, more than once."""
        ...


class Engine(Protocol):
    """One base model, many adapters; knows nothing of money."""

    @property
    def model(self) -> BaseModel: ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Return the prompt token ids of a chat by the base model's template.

        Control tokens spelled in the content stay plain text. Raises InvalidRequest.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]: ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens the canonical tokenisation of ``text`` has: what is billed."""
        ...

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        """Check the safetensors file and make the adapter usable. Raises InvalidAdapterFile."""
        ...

    async def remove_adapter(self, adapter_id: AdapterId) -> None: ...

    def adapters(self) -> frozenset[AdapterId]: ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Admit the request.

        Raises PromptEmpty, PromptTooLong, UnknownAdapter, EngineOverloaded.
        """
        ...

    def stats(self) -> Mapping[str, float]: ...

    async def close(self) -> None: ...


# the chain


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
        """Return the first event of that name; raise KeyError when there is none."""
        for found in self.events:
            if found.name == name:
                return found
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where Viz lives: one chain and its contracts."""

    chain_id: int
    genesis: Hash32
    token: Address
    token_decimals: int
    content_registry: Address
    adapter_registry: Address
    settlement: Address
    node_directory: Address
    first_block: int


@dataclass(frozen=True, slots=True)
class ContentState:
    """A work as the chain has it."""

    content_id: ContentId
    owner: Address
    creator: Address
    commitment: Hash32
    terms_hash: Hash32
    withdrawn_at: int


@dataclass(frozen=True, slots=True)
class GrantState:
    """A trainer's grant; ``live`` is judged at the head's time."""

    content_id: ContentId
    trainer: Address
    terms_hash: Hash32
    expires_at: int
    live: bool


@dataclass(frozen=True, slots=True)
class AdapterState:
    """An adapter as the chain has it; ``shares`` come from its registration event."""

    adapter_id: AdapterId
    trainer: Address
    base_model: Hash32
    weights_digest: Hash32
    cid: Cid
    manifest_hash: Hash32
    royalty_bps: int
    trainer_bps: int
    retires_at: int
    shares: tuple[tuple[ContentId, int], ...]


@dataclass(frozen=True, slots=True)
class ServingState:
    """Whether a node may serve an adapter now.

    ``reason`` says why not, None where it may. ``until_s`` is the chain time at which that ends, by
    retirement or by a permission taken back; None while no end is set.
    """

    reason: str | None = None
    until_s: int | None = None


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel as the chain has it; ``payer`` is the zero address while never opened."""

    signer: Address
    node: Address
    payer: Address
    deposit_units: Units
    settled_units: Units
    close_at: int


@dataclass(frozen=True, slots=True)
class Call:
    """A contract call: which contract, which function, which arguments (ABI order)."""

    contract: str
    function: str
    args: tuple[Any, ...] = field(default=())


class ChainReader(Protocol):
    """Reads of the chain. ``confirmed`` reads answer at head minus the confirmation depth."""

    @property
    def deployment(self) -> Deployment: ...

    async def chain_time(self) -> int:
        """Return the head block's timestamp, in seconds."""
        ...

    async def content(self, content_id: ContentId) -> ContentState | None: ...

    async def grant(self, content_id: ContentId, trainer: Address) -> GrantState | None: ...

    async def adapter(
        self, adapter_id: AdapterId, *, confirmed: bool = True
    ) -> AdapterState | None:
        """Return the adapter; with ``confirmed``, only after its confirmations."""
        ...

    async def servable(self, adapter_id: AdapterId, node: Address) -> ServingState:
        """Return whether the adapter may be served by ``node`` now, and until when."""
        ...

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None: ...

    async def owed(self, account: Address) -> Units:
        """Return the collectable balance of ``account`` in Settlement."""
        ...

    async def token_balance(self, account: Address) -> Units: ...

    async def read(self, call: Call) -> Any:
        """Return the decoded result of any view function."""
        ...


class ChainWriter(Protocol):
    """The one sender of one key."""

    @property
    def address(self) -> Address: ...

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        """Simulate, sign, record, broadcast and wait (bounded) for one confirmation.

        A revert in the simulation raises TransactionFailed with the decoded custom error. No more
        than ``max_gas`` is ever paid for: GasAboveLimit. FeeTooHigh while gas costs more than the
        operator pays, or four times that where it is ``urgent``. Whatever is raised as a
        ChainError, nothing was sent. The returned outcome is SETTLED, FAILED, PENDING or UNKNOWN.
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
        any more is replaced at a higher one, ``urgent`` as in ``submit``. Call it after a restart,
        and again while any is PENDING or UNKNOWN.
        """
        ...
