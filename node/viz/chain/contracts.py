"""Read the registries, and give the services one facade over all deployed contracts.

Converts ABI values to the values of ``viz.domain``. Writes are not here: a write is a ``Call``
that ``Sender`` submits. Only values that can never change are cached. A read with ``confirmed``
is made at the head minus the confirmation depth, all others at the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from viz.chain.contract import Contract
from viz.chain.grant_events import acquired_grants
from viz.chain.grant_logs import GrantLogs
from viz.chain.node_directory import NodeDirectory
from viz.chain.payment_token import PaymentToken
from viz.chain.registrations import AdapterRegistrations
from viz.chain.rpc import BlockTag, Rpc
from viz.chain.settlement import Settlement
from viz.chain.wallet_signatures import is_wallet_signature
from viz.chain.withdrawn import Withdrawals
from viz.domain.claim_rows import RowStatus
from viz.domain.license import Terms
from viz.domain.ports.chain import (
    DEVELOPMENT_CHAINS,
    AcquiredGrant,
    AdapterState,
    ChannelState,
    ContentState,
    Deployment,
    GrantState,
    Head,
    NodeEntry,
    ServingState,
    TermsState,
)
from viz.domain.shares import shares_from_words
from viz.domain.units import (
    ZERO_HASH,
    AdapterId,
    Address,
    Cid,
    ContentId,
    Hash32,
    Units,
)
from viz.errors import ChainUnreachable


class ServiceStatus(IntEnum):
    """Why an adapter may or may not be served (IAdapterRegistry.Service)."""

    SERVABLE = 0
    ENDING = 1
    NOT_REGISTERED = 2
    RETIRED = 3
    NOT_PERMITTED = 4
    PERMISSION_ENDED = 5


_REASONS: Final = {
    ServiceStatus.NOT_REGISTERED: "it is not registered",
    ServiceStatus.RETIRED: "it is retired",
    ServiceStatus.NOT_PERMITTED: "its trainer has not permitted this node to serve it",
    ServiceStatus.PERMISSION_ENDED: "its trainer's permission to this node has ended",
}


class ContentRegistry(Contract):
    """Works, license terms and grants."""

    name = "ContentRegistry"

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        super().__init__(rpc, deployment)
        self.withdrawals = Withdrawals(rpc, self.address, deployment.first_block)

    async def content(
        self, content_id: ContentId, *, block: BlockTag = "latest"
    ) -> ContentState | None:
        """Return a work; None if there is none."""
        found = await self._view_or_none("contentOf", content_id, block=block)
        if found is None:
            return None
        return ContentState(
            content_id,
            Address(await self._view("ownerOf", content_id, block=block)),
            Address(found["creator"]),
            Hash32(found["commitment"]),
            Hash32(found["termsHash"]),
            found["withdrawnAt"],
        )

    async def grant(
        self, content_id: ContentId, trainer: Address, now_s: int, *, block: BlockTag = "latest"
    ) -> GrantState | None:
        """Return a trainer's latest grant; it is live if it permits registering at ``now_s``."""
        found = await self._view("grantOf", content_id, trainer, block=block)
        terms_hash = Hash32(found["termsHash"])
        if terms_hash == ZERO_HASH:
            return None
        return GrantState(
            content_id, trainer, terms_hash, found["expiresAt"], now_s < found["registersUntil"]
        )

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        """Return a set of terms; None if the hash is unknown."""
        found = await self._view("termsOf", terms_hash)
        parts: Mapping[str, Any] = found["terms"]
        terms = Terms(*parts.values())
        # An unknown hash reads as zeros, and registered terms permit at least one use.
        return TermsState(terms, Hash32(found["licenseHash"])) if terms.uses else None

    async def nonce(self, owner: Address) -> int:
        """Return the nonce of the owner's next signed action."""
        return int(await self._view("nonces", owner))

    async def approved(self, content_id: ContentId, owner: Address, trainer: Address) -> bool:
        """Return whether ``owner`` approved ``trainer``."""
        return bool(await self._view("isTrainerApproved", content_id, owner, trainer))

    async def owners(
        self, content_ids: Sequence[ContentId], *, block: BlockTag = "latest"
    ) -> tuple[Address, ...]:
        """Return the owner of each work.

        Raises TransactionFailed if one is not registered, ChainUnreachable if an owner is missing.
        """
        found = await self._view("ownersOf", list(content_ids), block=block)
        if len(found) != len(content_ids):
            raise ChainUnreachable(
                f"ContentRegistry.ownersOf answered {len(found)} owners of {len(content_ids)} "
                "works: use another rpc_url (--rpc), or the deployment file of these contracts"
            )
        return tuple(Address(owner) for owner in found)

    async def count(self, *, block: BlockTag = "latest") -> int:
        """Return how many works there are; their ids are 1 to this number."""
        return int(await self._view("contentCount", block=block))


class AdapterRegistry(Contract):
    """Adapters and their share tables."""

    name = "AdapterRegistry"

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        super().__init__(rpc, deployment)
        self._registrations = AdapterRegistrations(rpc, self.address, deployment.first_block)

    async def adapter(
        self, adapter_id: AdapterId, *, block: BlockTag = "latest"
    ) -> AdapterState | None:
        """Return an adapter with its share table; None if it is not registered."""
        found = await self._view_or_none("adapterOf", adapter_id, block=block)
        if found is None:
            return None
        event = await self._registrations.of(adapter_id, Hash32(found["sharesHash"]))
        shares = shares_from_words(event["shares"])
        return AdapterState(
            adapter_id=adapter_id,
            trainer=Address(found["trainer"]),
            base_model=Hash32(found["baseModel"]),
            weights_digest=Hash32(found["weightsDigest"]),
            cid=Cid(event["cid"]),
            manifest_hash=Hash32(found["manifestHash"]),
            royalty_bps=found["royaltyBps"],
            trainer_bps=found["trainerBps"],
            retires_at=found["retiresAt"],
            shares=tuple((row.content_id, row.bps) for row in shares),
        )

    async def with_weights(self, digest: Hash32) -> tuple[AdapterId, ...]:
        """Return the adapters that were registered with these weights."""
        return await self._registrations.with_weights(digest)

    async def servable(self, adapter_id: AdapterId, node: Address) -> ServingState:
        """Return whether ``node`` may serve the adapter now, and until when.

        Raises ChainUnreachable, also if the contract answers with an unknown state.
        """
        found = await self._view("servable", adapter_id, node)
        try:
            why = ServiceStatus(found["why"])
        except ValueError as error:
            raise ChainUnreachable(
                f"AdapterRegistry.servable answered {found['why']}, which is not a known state: "
                "use another rpc_url (--rpc), or the deployment file of these contracts"
            ) from error
        if found["ok"]:
            return ServingState(None, found["until"] if why is ServiceStatus.ENDING else None)
        permitted = why not in (ServiceStatus.NOT_PERMITTED, ServiceStatus.PERMISSION_ENDED)
        reason = _REASONS.get(why, why.name.lower().replace("_", " "))
        return ServingState(reason, permitted=permitted)

    async def enforceable(self, adapter_id: AdapterId, words: Sequence[int]) -> int | None:
        """Return the first row of the share table for which ``enforce`` would retire the adapter.

        None if there is none.
        """
        found = await self._view("enforceable", adapter_id, list(words))
        return int(found["index"]) if found["found"] else None

    async def count(self, *, block: BlockTag = "latest") -> int:
        """Return how many adapters there are; their ids are 1 to this number."""
        return int(await self._view("adapterCount", block=block))


class Chain:
    """Implements ChainReader for one deployment."""

    def __init__(self, rpc: Rpc, deployment: Deployment, *, confirmations: int = 0) -> None:
        self.rpc = rpc
        self._deployment = deployment
        self._confirmations = confirmations
        self.contents = ContentRegistry(rpc, deployment)
        self.adapters = AdapterRegistry(rpc, deployment)
        self.settlement = Settlement(rpc, deployment)
        self.directory = NodeDirectory(rpc, deployment)
        self.token = PaymentToken(rpc, deployment)

    @property
    def deployment(self) -> Deployment:
        """The addresses of the contracts."""
        return self._deployment

    async def chain_time(self) -> int:
        """Return the head block's timestamp, in seconds.

        A development chain makes a block only for a transaction, so that its newest one can be
        hours old. There it is the timestamp of the block to come, by which deadlines are judged.
        """
        if self._deployment.chain_id in DEVELOPMENT_CHAINS:
            next_s = await self.rpc.next_block_time_s()
            if next_s is not None:
                return next_s
        return (await self.rpc.block()).time_s

    async def next_block_time_s(self) -> int | None:
        """Return the timestamp of the pending block; None if the endpoint does not support it."""
        return await self.rpc.next_block_time_s()

    async def head(self) -> Head:
        """Return the newest block."""
        found = await self.rpc.block()
        return Head(found.number, found.time_s)

    async def fee_wei(self) -> int:
        """Return what a unit of gas costs now: base fee plus tip, in wei."""
        fees = await self.rpc.fees()
        return fees.base_fee_wei + fees.priority_fee_wei

    async def content(self, content_id: ContentId) -> ContentState | None:
        """Return a work; None if there is none."""
        return await self.contents.content(content_id)

    async def content_count(self) -> int:
        """Return how many works are registered."""
        return await self.contents.count()

    async def owners(self, content_ids: Sequence[ContentId]) -> tuple[Address, ...]:
        """Return the owner of each of these registered works."""
        return await self.contents.owners(content_ids)

    async def approved(self, content_id: ContentId, owner: Address, trainer: Address) -> bool:
        """Return whether ``owner`` approved ``trainer``."""
        return await self.contents.approved(content_id, owner, trainer)

    async def registration_nonce(self, creator: Address) -> int:
        """Return the nonce that the creator's next signed registration must carry."""
        return await self.contents.nonce(creator)

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        """Return a set of terms; None if the hash is unknown."""
        return await self.contents.terms(terms_hash)

    async def grant(self, content_id: ContentId, trainer: Address) -> GrantState | None:
        """Return a trainer's grant, live or not; None if there never was one."""
        return await self.contents.grant(content_id, trainer, await self.chain_time())

    async def withdrawn_works(self) -> frozenset[ContentId]:
        """Return the works that were ever withdrawn, from the logs."""
        return await self.contents.withdrawals.works()

    async def trainers_of(self, content_id: ContentId) -> tuple[Address, ...]:
        """Return who acquired a grant; ChainError if the logs lack one that a view shows."""
        logs = GrantLogs(self.rpc, self.deployment, self.contents, self.adapters)
        return await logs.trainers_of(content_id)

    async def adapters_with(self, weights_digest: Hash32) -> tuple[AdapterId, ...]:
        """Return the adapters that were registered with these weights, from the logs."""
        return await self.adapters.with_weights(weights_digest)

    async def adapter(
        self, adapter_id: AdapterId, *, confirmed: bool = True
    ) -> AdapterState | None:
        """Return an adapter; with ``confirmed``, as it was at the confirmed block."""
        return await self.adapters.adapter(adapter_id, block=await self._block(confirmed))

    async def acquired_grants(self, adapter: AdapterState) -> tuple[AcquiredGrant, ...]:
        """Return the grants under which an adapter was registered, by work."""
        return await acquired_grants(self.rpc, self.deployment, adapter)

    async def enforceable(self, adapter_id: AdapterId, words: Sequence[int]) -> int | None:
        """Return the row of the share table whose work would retire the adapter now, or None."""
        return await self.adapters.enforceable(adapter_id, words)

    async def servable(self, adapter_id: AdapterId, node: Address) -> ServingState:
        """Return whether the adapter may be served by ``node`` now, and until when."""
        return await self.adapters.servable(adapter_id, node)

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None:
        """Return a channel; None if it was never opened."""
        return await self.settlement.channel(signer, node, block=await self._block(confirmed))

    async def collectable(self, account: Address) -> Units:
        """Return the amount that ``collect`` would send to an account from Settlement."""
        return (await self.settlement.balance(account))[0]

    async def collected_to(self, account: Address) -> Address:
        """Return where ``collect`` sends an account's balance."""
        return (await self.settlement.balance(account))[1]

    async def coin_wei(self, account: Address) -> int:
        """Return an account's balance of the chain's own coin."""
        return await self.rpc.balance_wei(account)

    async def undistributed(self, adapter_id: AdapterId) -> Units:
        """Return the royalties of the adapter's works that nobody distributed yet."""
        return await self.settlement.undistributed(adapter_id)

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        """Return how ``claim(rows)`` by ``node`` would judge each row at the newest block."""
        return await self.settlement.preview_claim(node, rows)

    async def token_balance(self, account: Address) -> Units:
        """Return an account's balance of the token."""
        return await self.token.balance(account)

    async def has_code(self, account: Address) -> bool:
        """Return whether there is code at an address now: a contract's, or that of a key's own."""
        return bool(await self.rpc.code(account))

    async def is_wallet_signature(self, account: Address, digest: Hash32, signature: bytes) -> bool:
        """Return whether the code at an account accepts a signature, at the head."""
        return await is_wallet_signature(self.rpc, account, digest, signature)

    async def authorization_used(self, payer: Address, nonce: Hash32) -> bool:
        """Return whether an authorization was used, as of the confirmation depth."""
        return await self.token.authorization_used(payer, nonce, block=await self._block(True))

    async def token_domain(self) -> tuple[str, str]:
        """Return the name and the version in the token's EIP-712 domain."""
        return await self.token.domain()

    async def node_entry(self, node: Address) -> NodeEntry | None:
        """Return what a node announced in the directory; None if it is not listed."""
        return await self.directory.entry(node)

    async def node_entries(self, offset: int, limit: int) -> tuple[NodeEntry, ...]:
        """Return up to ``limit`` entries of the directory."""
        return await self.directory.entries(offset, limit)

    async def _block(self, confirmed: bool) -> BlockTag:
        if not confirmed or not self._confirmations:
            return "latest"
        return max(0, await self.rpc.block_number() - self._confirmations)
