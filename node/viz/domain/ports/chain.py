"""Read the chain: where Viz is deployed, and the state of works, adapters and channels.

Holds the reading side only; what changes a state is in ``viz.domain.ports.transactions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from viz.domain.units import AdapterId, Address, Cid, ContentId, Hash32, Units

if TYPE_CHECKING:
    # Both load the curve's library, which a command that only prints an amount does without.
    from viz.domain.claim_rows import RowStatus
    from viz.domain.license import Terms


@dataclass(frozen=True, slots=True)
class Deployment:
    """Name one chain and the contracts of Viz on it.

    ``token_symbol`` is printed beside amounts; nothing is computed from it.
    """

    chain_id: int
    genesis: Hash32
    token: Address
    token_decimals: int
    content_registry: Address
    adapter_registry: Address
    settlement: Address
    node_directory: Address
    first_block: int
    token_symbol: str = "tokens"  # noqa: S105  no password


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
class TermsState:
    """A set of license terms on chain, and the hash of its license text."""

    terms: Terms
    license_hash: Hash32


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
class Head:
    """The newest block; ``time_s`` is its own timestamp."""

    number: int
    time_s: int


class ChainReader(Protocol):
    """Reads of the chain. ``confirmed`` reads answer at head minus the confirmation depth."""

    @property
    def deployment(self) -> Deployment: ...

    async def chain_time(self) -> int:
        """Return the head block's timestamp, in seconds."""
        ...

    async def next_block_time_s(self) -> int | None:
        """Return the timestamp of the block being made; None if the endpoint does not say."""
        ...

    async def fee_wei(self) -> int:
        """Return what a unit of gas costs now: base fee and tip, in wei of the chain's coin."""
        ...

    async def head(self) -> Head:
        """Return the newest block."""
        ...

    async def content(self, content_id: ContentId) -> ContentState | None: ...

    async def content_count(self) -> int:
        """Return how many works are registered; their ids are 1 to this number."""
        ...

    async def registration_nonce(self, creator: Address) -> int:
        """Return the nonce that the creator's next signed registration must carry."""
        ...

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        """Return the terms of that hash; None if nobody registered them."""
        ...

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

    async def collectable(self, account: Address) -> Units:
        """Return what ``collect`` would send from Settlement for ``account``."""
        ...

    async def undistributed(self, adapter_id: AdapterId) -> Units:
        """Return the royalties that the adapter's works earned and ``distribute`` has not paid."""
        ...

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        """Return how ``claim`` of the packed ``rows``, sent by ``node``, would judge each now."""
        ...

    async def token_balance(self, account: Address) -> Units: ...

    async def has_code(self, account: Address) -> bool:
        """Return whether code judges the account's signatures, at the head (EIP-7702 included)."""
        ...

    async def authorization_used(self, payer: Address, nonce: Hash32) -> bool:
        """Return whether the payer's EIP-3009 authorization of that nonce was used; confirmed."""
        ...

    async def token_domain(self) -> tuple[str, str]:
        """Return the name and the version in the token's EIP-712 domain (EIP-5267)."""
        ...
