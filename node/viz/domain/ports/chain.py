"""Define how services read the chain: the deployment, works, adapters and channels.

``viz.domain.ports.transactions`` has the calls that change the chain's state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from viz.domain.units import AdapterId, Address, Cid, ContentId, Hash32, Units

if TYPE_CHECKING:
    # Not imported at run time: both load the curve's library, which many commands do not need.
    from viz.domain.claim_rows import RowStatus
    from viz.domain.license import Terms


# Local chains, whose money is play money and whose time can be moved.
DEVELOPMENT_CHAINS: Final = frozenset({31_337, 1_337})


@dataclass(frozen=True, slots=True)
class Deployment:
    """One chain and the addresses of Viz's contracts on it.

    ``token_symbol`` is only printed after amounts; nothing is computed from it.
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
    """A work's state on chain."""

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
    """A trainer's grant; ``live``: it permits registering an adapter at the head's time."""

    content_id: ContentId
    trainer: Address
    terms_hash: Hash32
    expires_at: int
    live: bool


@dataclass(frozen=True, slots=True)
class AcquiredGrant:
    """A grant as it was bought: of whom, for what, under which terms, and where the chain says so.

    ``fee_units`` are the token's base units. ``expires_at`` is in seconds since 1970.
    """

    content_id: ContentId
    trainer: Address
    terms_hash: Hash32
    owner: Address
    fee_units: Units
    expires_at: int
    block_number: int
    transaction_hash: Hash32


@dataclass(frozen=True, slots=True)
class AdapterState:
    """An adapter's state on chain; ``shares`` are from its registration event."""

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


class WeightsAddress(Protocol):
    """Where an adapter's weights are: of a registered adapter, or of the ledger's record of one."""

    @property
    def adapter_id(self) -> AdapterId: ...

    @property
    def weights_digest(self) -> Hash32: ...

    @property
    def cid(self) -> Cid: ...


@dataclass(frozen=True, slots=True)
class ServingState:
    """Whether a node may serve an adapter now.

    ``reason`` says why it may not; None if it may. ``until_s`` is the chain time at which the
    permission ends, by the adapter's retirement or by withdrawal; None if no end is set.
    ``permitted`` is False if its trainer gave no permission, or the permission has ended.
    """

    reason: str | None = None
    until_s: int | None = None
    permitted: bool = True


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel's state on chain; ``payer`` is the zero address if it was never opened."""

    signer: Address
    node: Address
    payer: Address
    deposit_units: Units
    settled_units: Units
    close_at: int


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node's entry in the directory: claims of the node, which must be checked."""

    node: Address
    announced_at: int
    url: str
    age_key: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block; ``time_s`` is its own timestamp."""

    number: int
    time_s: int


class ChainReader(Protocol):
    """Reads the chain; ``confirmed`` reads are made at the head minus the confirmation depth."""

    @property
    def deployment(self) -> Deployment: ...

    async def chain_time(self) -> int:
        """Return the head block's timestamp, in seconds; on a development chain, the next one's."""
        ...

    async def next_block_time_s(self) -> int | None:
        """Return the timestamp of the pending block; None if the endpoint does not support it."""
        ...

    async def fee_wei(self) -> int:
        """Return what a unit of gas costs now: base fee plus tip, in wei."""
        ...

    async def head(self) -> Head:
        """Return the newest block."""
        ...

    async def content(self, content_id: ContentId) -> ContentState | None: ...

    async def content_count(self) -> int:
        """Return how many works are registered; their ids are 1 to this number."""
        ...

    async def owners(self, content_ids: Sequence[ContentId]) -> tuple[Address, ...]:
        """Return the owner of each of these registered works, in one call."""
        ...

    async def approved(self, content_id: ContentId, owner: Address, trainer: Address) -> bool:
        """Return whether ``owner`` approved ``trainer``; valid while ``owner`` has the work."""
        ...

    async def registration_nonce(self, creator: Address) -> int:
        """Return the nonce that the creator's next signed registration must carry."""
        ...

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        """Return the terms with this hash; None if nobody registered them."""
        ...

    async def grant(self, content_id: ContentId, trainer: Address) -> GrantState | None: ...

    async def withdrawn_works(self) -> frozenset[ContentId]:
        """Return the works that were ever withdrawn, from the logs.

        As ``adapters_with``, it may name one of a block that a reorganisation has replaced: read
        the state of a work, and of an adapter, before acting on it.
        """
        ...

    async def trainers_of(self, content_id: ContentId) -> tuple[Address, ...]:
        """Return the accounts that acquired a grant to a work, from the logs.

        One may be missing if an endpoint hides its event and its payment, for no view counts
        grants. Raises ChainError if the endpoint lacks what the contracts' views show.
        """
        ...

    async def adapters_with(self, weights_digest: Hash32) -> tuple[AdapterId, ...]:
        """Return the adapters that were registered with these weights, from the logs.

        Anybody may register any digest: several adapters may name the same weights.
        """
        ...

    async def adapter(
        self, adapter_id: AdapterId, *, confirmed: bool = True
    ) -> AdapterState | None:
        """Return the adapter; with ``confirmed``, as it was at the confirmed block."""
        ...

    async def acquired_grants(self, adapter: AdapterState) -> tuple[AcquiredGrant, ...]:
        """Return the grants under which an adapter was registered, by work.

        They are the trainer's newest of each work before the registration, from the chain's logs.
        """
        ...

    async def enforceable(self, adapter_id: AdapterId, words: Sequence[int]) -> int | None:
        """Return the row of the share table whose work would retire the adapter now, or None."""
        ...

    async def servable(self, adapter_id: AdapterId, node: Address) -> ServingState:
        """Return whether the adapter may be served by ``node`` now, and until when."""
        ...

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None: ...

    async def collectable(self, account: Address) -> Units:
        """Return the amount that ``collect`` would send to ``account`` from Settlement."""
        ...

    async def collected_to(self, account: Address) -> Address:
        """Return the recipient of ``collect``: the account, or the address that it named."""
        ...

    async def coin_wei(self, account: Address) -> int:
        """Return an account's balance of the chain's own coin, which pays gas."""
        ...

    async def undistributed(self, adapter_id: AdapterId) -> Units:
        """Return the royalties of the adapter's works that ``distribute`` has not paid yet."""
        ...

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        """Return how ``claim`` of the packed ``rows``, sent by ``node``, would judge each now."""
        ...

    async def token_balance(self, account: Address) -> Units: ...

    async def has_code(self, account: Address) -> bool:
        """Return whether code judges the account's signatures, at the head (EIP-7702 included)."""
        ...

    async def is_wallet_signature(self, account: Address, digest: Hash32, signature: bytes) -> bool:
        """Return whether the code at ``account`` accepts the signature (ERC-1271), at the head."""
        ...

    async def authorization_used(self, payer: Address, nonce: Hash32) -> bool:
        """Return whether the payer's EIP-3009 authorization of that nonce was used; confirmed."""
        ...

    async def token_domain(self) -> tuple[str, str]:
        """Return the name and the version in the token's EIP-712 domain (EIP-5267)."""
        ...

    async def node_entry(self, node: Address) -> NodeEntry | None:
        """Return a node's entry in the directory; None if it has none."""
        ...

    async def node_entries(self, offset: int, limit: int) -> tuple[NodeEntry, ...]:
        """Return up to ``limit`` entries of the directory; fewer mean that there are no more."""
        ...


class OpenedChannels(Protocol):
    """The channels that were ever opened, which a node looks through when its ledger is missing."""

    def opened(self, node: Address) -> AsyncIterator[Address]:
        """Yield the signers whose channel to ``node`` was ever opened, from the chain's logs."""
        ...

    async def channel(self, signer: Address, node: Address) -> ChannelState | None: ...
