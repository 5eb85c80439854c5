"""Store adapters' weights sealed, and fetch and open those that this node may serve.

The chain has the digest of the plain weights and the CID of the sealed ones. The trainer's node is
the custodian of the key; it is found by its entry in the directory. Weights that earlier versions
stored plain are read as they are. Invariants: a key is durable before the blob is stored or paid
for; a node asks for a key only if the chain permits it to have it. The caller of ``fetch`` must
compare the opened bytes with the digest: this class does not.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from viz.domain.http_url import http_origin
from viz.domain.ports.blobs import BlobStore
from viz.domain.ports.chain import ChainReader, NodeEntry, WeightsAddress
from viz.domain.ports.custody import BlobSources, KeyKind
from viz.domain.units import Address, Cid
from viz.errors import (
    BlobNotFound,
    BlobTooLarge,
    ChainUnreachable,
    KeyUnknown,
    StorageUnavailable,
    UnknownAdapter,
)
from viz.private import make_private_folder
from viz.services.custody.custodian import Custodian
from viz.services.custody.key_requests import KeyRequests
from viz.storage.base import root_of_source
from viz.storage.sealing import is_sealed, new_identity, seal, unseal

MAX_NODES: Final = 16
# age adds a header, and 16 bytes to every 64 KiB.
_HEADER_BYTES: Final = 4_096
_log = structlog.get_logger()


class SealedWeights:
    """The sealed adapters of one node, and its access to those of others."""

    def __init__(
        self,
        chain: ChainReader,
        blobs: BlobStore,
        sources: BlobSources,
        custodian: Custodian,
        requests: KeyRequests,
        *,
        node: Address,
        directory: Path,
        max_bytes: int,
    ) -> None:
        """Create it; ``directory`` holds sealed weights while they are written or fetched."""
        self._chain, self._blobs, self._sources = chain, blobs, sources
        self._custodian, self._requests = custodian, requests
        self._node, self._directory, self._max_bytes = node, directory, max_bytes

    async def store(self, weights: Path) -> Cid:
        """Seal plain weights with a fresh key, store them, and return the CID.

        If they are not stored, the key is destroyed. Raises StorageUnavailable, BlobCorrupt.
        """
        key, sealed = new_identity(), self._temporary()
        try:
            await asyncio.to_thread(make_private_folder, self._directory)
            await asyncio.to_thread(seal, weights, sealed, key)
            cid = await asyncio.to_thread(root_of_source, sealed)
            try:
                await self._custodian.keep_own(cid, key)
                return await self._blobs.add(sealed)
            except BaseException:
                with suppress(StorageUnavailable):  # the first fault is the one to tell
                    await self._custodian.drop_own(cid)
                raise
        except OSError as error:
            raise StorageUnavailable(f"{sealed} cannot be written: {error.strerror}") from error
        finally:
            await asyncio.to_thread(sealed.unlink, missing_ok=True)

    async def has(self, cid: Cid) -> bool:
        """Return whether stored weights and their key are still here; raise StorageUnavailable."""
        return await self._blobs.has(cid) and await self._custodian.key_of(cid) is not None

    async def hold(self, adapter: WeightsAddress) -> None:
        """Make sure that an adapter's sealed weights are here and pinned, to serve them to others.

        Plain weights that are here say nothing about that: a process may have been killed before it
        pinned the blob. If no source has the blob, the log says so. Raises StorageUnavailable if
        the disk cannot be written, and what ``fetch`` raises.
        """
        if await self._blobs.has(adapter.cid):
            await self._blobs.pin(adapter.cid)
            return
        sealed = self._temporary()
        try:
            await self._take(adapter, sealed)
            await self._keep(adapter.cid, sealed)
        except BlobNotFound as error:
            _log.warning(
                "sealed weights are nowhere, so this node cannot pass them on",
                adapter=adapter.adapter_id,
                cid=adapter.cid,
                reason=error.detail,
            )
        except OSError as error:
            raise StorageUnavailable(f"{sealed} cannot be written: {error.strerror}") from error
        finally:
            await asyncio.to_thread(sealed.unlink, missing_ok=True)

    async def fetch(self, adapter: WeightsAddress, target: Path) -> None:
        """Write an adapter's plain weights to ``target``; keep the sealed ones for others.

        Raises UnknownAdapter, KeyUnknown, AdapterNotServable if the trainer's node says so,
        BlobNotFound, BlobCorrupt, BlobTooLarge, SealBroken, StorageUnavailable, AddressNotPublic,
        NodeUnreachable, NodeRefused, NodeNotTrusted, ChainUnreachable.
        """
        sealed = self._temporary()
        try:
            await self._take(adapter, sealed)
            if not await asyncio.to_thread(is_sealed, sealed):
                await self._keep(adapter.cid, sealed)
                await asyncio.to_thread(sealed.replace, target)
                return
            key = await self._key(adapter)
            await asyncio.to_thread(unseal, sealed, target, key, max_bytes=self._max_bytes)
            await self._keep(adapter.cid, sealed)
        except BlobNotFound as error:
            raise BlobNotFound(
                f"adapter {adapter.adapter_id}'s weights ({adapter.cid}) could not be "
                f"fetched: is its trainer's node reachable? {error.detail}"
            ) from error
        except BlobTooLarge as error:
            raise BlobTooLarge(
                f"adapter {adapter.adapter_id}'s weights are larger than the {self._max_bytes} "
                f"bytes that this node accepts (storage.max_blob_bytes): {error.detail}"
            ) from error
        except OSError as error:
            raise StorageUnavailable(f"{target} cannot be written: {error.strerror}") from error
        finally:
            await asyncio.to_thread(sealed.unlink, missing_ok=True)

    async def _take(self, adapter: WeightsAddress, sealed: Path) -> None:
        """Write an adapter's blob to ``sealed``, from this node's store or another's."""
        await asyncio.to_thread(make_private_folder, self._directory)
        most = self._max_bytes + self._max_bytes // 4_096 + _HEADER_BYTES
        await self._sources.fetch(
            adapter.cid, sealed, urls=await self._urls(adapter), max_bytes=most
        )

    async def _keep(self, cid: Cid, blob: Path) -> None:
        """Store and pin a fetched blob, so that this node can serve it to others."""
        if await self._blobs.has(cid):
            await self._blobs.pin(cid)
        else:
            await self._blobs.add(blob)

    async def _key(self, adapter: WeightsAddress) -> str:
        if (own := await self._custodian.key_of(adapter.cid)) is not None:
            return own
        trainer = await self._trainer_of(adapter)
        if trainer == self._node:
            raise KeyUnknown(
                f"the key of adapter {adapter.adapter_id}'s weights ({adapter.cid}) is not in the "
                "folder of keys: restore keys/ from a backup"
            )
        entry = await self._chain.node_entry(trainer)
        if entry is None:
            raise KeyUnknown(
                f"adapter {adapter.adapter_id}'s trainer, {trainer}, has no entry in the directory "
                "of nodes: ask it to announce its node (`viz node announce`)"
            )
        item = int(adapter.adapter_id)
        return await self._requests.key(entry.url, trainer, KeyKind.ADAPTER, item, adapter.cid)

    async def _urls(self, adapter: WeightsAddress) -> list[str]:
        """Return the origins to ask: the trainer's node first, then others of the directory.

        Empty while the chain cannot be read: this node's own store may still have the blob.
        """
        entries: list[NodeEntry] = []
        try:
            trainer = await self._chain.node_entry(await self._trainer_of(adapter))
            entries += [] if trainer is None else [trainer]
            entries += await self._chain.node_entries(0, MAX_NODES)
        except (ChainUnreachable, UnknownAdapter) as error:
            _log.info("the directory cannot be read", reason=error.detail)
        found = [http_origin(entry.url) for entry in entries if entry.node != self._node]
        return [url for url in dict.fromkeys(found) if url is not None]

    async def _trainer_of(self, adapter: WeightsAddress) -> Address:
        state = await self._chain.adapter(adapter.adapter_id)
        if state is None:
            raise UnknownAdapter(f"adapter {adapter.adapter_id} is not registered: check the id")
        return state.trainer

    def _temporary(self) -> Path:
        return self._directory / f".{uuid.uuid4().hex}.age"
