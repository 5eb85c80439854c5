"""Publish trained weights as an adapter on chain, and activate registered adapters for serving.

Owns the order of the steps and the checks between them. Invariants: nothing is stored or paid for
before a simulation showed that the contract accepts the registration; a manifest is registered once
on the same terms, whenever the process was killed; an adapter is given to the engine only if the
bytes of its CID hash to the digest on chain, its base model is that engine's, and this node may
serve it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from viz.basemodel.safetensor_file import file_digest
from viz.domain.engines import Engines
from viz.domain.ports.chain import AdapterState, ChainReader, ServingState, WeightsAddress
from viz.domain.ports.transactions import Call, ChainWriter, Event, Outcome, Transaction
from viz.domain.shares import Share, check_rates, check_shares, share_words
from viz.domain.units import ZERO_ADDRESS, AdapterId, Address, Cid, ContentId, Hash32, hex_of
from viz.errors import (
    AdapterNotServable,
    BlobCorrupt,
    ChainError,
    InvalidRequest,
    NoLiveGrant,
    OutcomeUnknown,
    TransactionFailed,
    UnknownAdapter,
)
from viz.private import make_private_folder
from viz.services.adapters.sealed_weights import SealedWeights

# Stands for the CID in the simulation, when nothing is stored yet. It has a real CID's length.
_PLACE_HOLDER: Final = "b" + "a" * 58
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Publication:
    """The data of an adapter's registration; ``shares`` are (contentId, bps), in any order."""

    weights: Path
    base_model: Hash32
    manifest_hash: Hash32
    royalty_bps: int
    trainer_bps: int
    shares: Sequence[tuple[ContentId, int]]


@dataclass(frozen=True, slots=True)
class Published:
    """A registered adapter; its id is final only after its confirmations."""

    adapter_id: AdapterId
    cid: Cid
    weights_digest: Hash32
    transaction: Transaction


class Publishing:
    """Registers one node's adapters, and fetches registered ones for its engines."""

    def __init__(
        self,
        reader: ChainReader,
        writer: ChainWriter,
        sealed: SealedWeights,
        directory: Path,
        *,
        engines: Engines | None = None,
    ) -> None:
        """Create it; ``directory`` holds the plain weights of active adapters."""
        self._reader = reader
        self._writer = writer
        self._sealed = sealed
        self._directory = directory
        self._engines = engines
        # Sealed and stored, by the weights' digest, for a registration that was not sent, or was
        # refused. One that was sent and not refused has its own: two adapters must not share a key.
        self._stored: dict[Hash32, Cid] = {}
        # One at a time: two calls for one manifest would both find it unregistered.
        self._registering = asyncio.Lock()

    async def publish(self, publication: Publication) -> Published:
        """Seal and store the weights, and register the adapter with its royalty table.

        An adapter that is registered already, with this manifest on these terms, is returned and
        not registered again. Raises InvalidRequest, NoLiveGrant and TransactionFailed with the
        contract's own reason before anything is stored; StorageError; OutcomeUnknown, also while
        an earlier registration of the manifest has no known end.
        """
        async with self._registering:
            digest = await asyncio.to_thread(file_digest, publication.weights)
            if (made := await self._registered(publication, digest)) is not None:
                return made
            await self.check(publication, digest)
            # Each storing makes another blob and key: the next try takes what this one stored.
            cid = self._stored.get(digest)
            if cid is None or not await self._sealed.has(cid):
                cid = await self._sealed.store(publication.weights)
            self._stored.pop(digest, None)
            try:
                sent = await self._writer.submit(_registration(publication, digest, cid))
            except ChainError:
                self._stored[digest] = cid
                raise
            made = _published(sent.require_mined("registering the adapter"), digest)
            _log.info("adapter registered", adapter=made.adapter_id, cid=cid, gas=sent.gas_used)
            return made

    async def _registered(self, publication: Publication, digest: Hash32) -> Published | None:
        """Return what an earlier registration made, also one of a process that was killed."""
        call = _registration(publication, digest, Cid(_PLACE_HOLDER))
        found = await self._writer.earlier(call, publication.manifest_hash)
        if any(each.outcome.undecided for each in found):
            await self._writer.recover()
            found = await self._writer.earlier(call, publication.manifest_hash)
        for each in found:
            if each.outcome is not Outcome.MINED:
                continue
            made = _published(each, digest)
            servable = await self._reader.servable(made.adapter_id, self._writer.address)
            if servable.reason is None and _says(each.event("AdapterRegistered"), call):
                return made
        for each in found:
            if each.outcome.undecided:
                raise OutcomeUnknown(
                    f"a registration of this adapter was sent and is {each.outcome.value}: look up "
                    f"transaction {hex_of(each.hash)} before trying again",
                    transaction=hex_of(each.hash),
                )
        return None

    async def check(self, publication: Publication, digest: Hash32) -> None:
        """Raise the error with which the registration would fail now; store and send nothing.

        NoLiveGrant if a grant is missing, else InvalidRequest, TransactionFailed, ChainUnreachable.
        """
        check_rates(publication.royalty_bps, publication.trainer_bps)
        call = _registration(publication, digest, Cid(_PLACE_HOLDER))
        try:
            await self._writer.simulate(call)
        except TransactionFailed as error:
            if error.extensions.get("contractError") == "Unlicensed":
                raise NoLiveGrant(error.detail, **error.extensions) from error
            raise

    async def permit(
        self, adapter_id: AdapterId, node: Address, *, allowed: bool
    ) -> Transaction | None:
        """Permit another node to serve an adapter that this node trained, or end the permission.

        Returns None, and sends nothing, if that changes nothing: a node may serve it already,
        without an end, or has no permission that could be ended.
        Raises InvalidRequest, UnknownAdapter, AdapterNotServable for an adapter of another trainer,
        TransactionFailed, OutcomeUnknown.
        """
        adapter = await self._reader.adapter(adapter_id, confirmed=False)
        if adapter is None:
            raise UnknownAdapter(f"adapter {adapter_id} is not registered: check the id")
        if adapter.trainer != self._writer.address:
            raise AdapterNotServable(
                f"adapter {adapter_id} was trained by {adapter.trainer}: only its trainer permits "
                "nodes to serve it"
            )
        if node == self._writer.address:
            raise InvalidRequest(f"{node} is this node: its trainer may always serve an adapter")
        if node == ZERO_ADDRESS:
            raise InvalidRequest("the zero address is nobody's node: write the node's address")
        standing = await self._reader.servable(adapter_id, node)
        until_s = standing.until_s or adapter.retires_at
        ended = not standing.permitted or until_s < adapter.retires_at
        if standing == ServingState() if allowed else ended:
            return None
        sent = await self._writer.submit(
            Call("AdapterRegistry", "setServing", (adapter_id, node, allowed))
        )
        return sent.require_mined("the permission" if allowed else "ending the permission")

    async def activate(self, adapter_id: AdapterId) -> AdapterState:
        """Fetch a registered adapter's weights, check them, and give them to its base's engine.

        The sealed weights are here and pinned then, also if the plain ones were here before.
        Raises UnknownAdapter, AdapterNotServable, BlobCorrupt, InvalidAdapterFile, and whatever
        ``SealedWeights.fetch`` raises.
        """
        if self._engines is None:
            raise AdapterNotServable("this process has no engine: activate on the node")
        self._engines.require_any("serving an adapter")
        adapter = await self._reader.adapter(adapter_id)
        if adapter is None:
            raise UnknownAdapter(
                f"adapter {adapter_id} is not registered, or does not have its confirmations yet: "
                "check the id, or try again later"
            )
        engine = self._engines.require_for(adapter_id, adapter.base_model)
        reason = (await self._reader.servable(adapter_id, self._writer.address)).reason
        if reason is not None:
            raise AdapterNotServable(f"adapter {adapter_id} may not be served here: {reason}")
        weights = await self.weights(adapter)
        await self._sealed.hold(adapter)
        await engine.add_adapter(adapter_id, weights)
        _log.info("adapter active", adapter=adapter_id, cid=adapter.cid)
        return adapter

    async def weights(self, adapter: WeightsAddress) -> Path:
        """Return the path of an adapter's plain weights; fetch them first if needed.

        A file that does not hash to the chain's digest is fetched again. Raises BlobCorrupt, and
        whatever ``SealedWeights.fetch`` raises.
        """
        target = self.path_of(adapter.weights_digest)
        if await asyncio.to_thread(_matches, target, adapter.weights_digest):
            return target
        if await asyncio.to_thread(target.exists):
            _log.warning(
                "adapter file is damaged, fetched again",
                adapter_id=adapter.adapter_id,
                cid=adapter.cid,
            )
        await asyncio.to_thread(_make_room, target)
        await self._sealed.fetch(adapter, target)
        if not await asyncio.to_thread(_matches, target, adapter.weights_digest):
            await asyncio.to_thread(target.unlink, missing_ok=True)
            raise BlobCorrupt(
                f"adapter {adapter.adapter_id}'s weights ({adapter.cid}) do not hash to the digest "
                f"on chain, {hex_of(adapter.weights_digest)}: ask its trainer, who published wrong "
                "bytes"
            )
        return target

    def path_of(self, weights_digest: Hash32) -> Path:
        """Return the path of the plain weights with this digest."""
        return self._directory / f"{weights_digest.hex()}.safetensors"


def _matches(path: Path, digest: Hash32) -> bool:
    return path.is_file() and file_digest(path) == digest


def _make_room(target: Path) -> None:
    make_private_folder(target.parent)
    target.unlink(missing_ok=True)


def _published(sent: Transaction, digest: Hash32) -> Published:
    said = sent.event("AdapterRegistered").args
    return Published(AdapterId(said["adapterId"]), Cid(said["cid"]), digest, sent)


def _says(event: Event, call: Call) -> bool:
    """Return whether a registration's event has the arguments of ``call``, but for the CID."""
    base, digest, _, manifest, royalty_bps, trainer_bps, words = call.args
    said = event.args
    return (base, digest, manifest, royalty_bps, trainer_bps, words) == (
        said["baseModel"],
        said["weightsDigest"],
        said["manifestHash"],
        said["royaltyBps"],
        said["trainerBps"],
        list(said["shares"]),
    )


def _registration(publication: Publication, digest: Hash32, cid: Cid) -> Call:
    shares = check_shares(sorted(Share(*row) for row in publication.shares))
    return Call(
        "AdapterRegistry",
        "register",
        (
            publication.base_model,
            digest,
            cid,
            publication.manifest_hash,
            publication.royalty_bps,
            publication.trainer_bps,
            list(share_words(shares)),
        ),
    )
