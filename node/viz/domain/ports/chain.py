"""What the chain says: where Viz lives on it, and the state of works, adapters and channels.

Owns the reading side. Does not know how a state is changed (``viz.domain.ports.transactions``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from viz.domain.ports.transactions import Call
from viz.domain.units import AdapterId, Address, Cid, ContentId, Hash32, Units


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where Viz lives: one chain and its contracts.

    ``token_symbol`` names the token beside every amount that is shown; nothing rests on it.
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

    async def head(self) -> Head:
        """Return the newest block."""
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
