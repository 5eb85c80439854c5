"""Fetch a blob from several sources, block by block: this node's store if it has it, other nodes.

Owns the order of the sources and the folder of received blocks. Invariants: every block is
verified, whoever sent it; a source that sends wrong bytes, too many bytes or nothing in time is not
asked again for this blob; received blocks are kept, so that an interrupted fetch continues where it
stopped; sealed blobs are not opened.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import structlog

from viz.domain.ports.blobs import BlockStore
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import Cid
from viz.errors import (
    BlobCorrupt,
    BlobDenied,
    BlobNotFound,
    BlobTooLarge,
    BuyerError,
    ConfigError,
    StorageError,
    StorageUnavailable,
    VizError,
)
from viz.private import make_private_folder
from viz.storage.base import BlockSource
from viz.storage.cid import to_binary, verify
from viz.storage.gateway import GatewayClient

BLOCK_TIMEOUT_S: Final = 15.0
MAX_URLS: Final = 16
OWN_STORE: Final = "this node's store"
# How many of the sources' answers an error quotes: the store and the custodians come first.
_SAID: Final = 4
# Blocks of a fetch that nobody continued for this long are deleted.
_LEFTOVER_AGE_S: Final = 7 * 24 * 3_600
_log = structlog.get_logger()


class SourcedBlobs:
    """Implements BlobSources over one store and other nodes' gateways."""

    def __init__(
        self,
        own: BlockStore,
        peers: PeerHttp,
        folder: Path,
        *,
        block_timeout_s: float = BLOCK_TIMEOUT_S,
    ) -> None:
        """Create it; ``folder`` holds the blocks of unfinished fetches."""
        self._own, self._peers, self._folder = own, peers, folder
        self._timeout_s = block_timeout_s
        self._locks: WeakValueDictionary[Cid, asyncio.Lock] = WeakValueDictionary()

    async def fetch(self, cid: Cid, target: Path, *, urls: Sequence[str], max_bytes: int) -> int:
        """Write the verified blob to ``target`` atomically, and return its size in bytes.

        Raises InvalidRequest, BlobNotFound if the sources together did not have all of it,
        BlobDenied, BlobTooLarge, BlobCorrupt if its blocks are not a file, StorageUnavailable. If
        this node's own store fails and nobody else has the blob, raises the store's error.
        """
        to_binary(cid)
        # Two simultaneous fetches of one blob would remove each other's blocks.
        lock = self._locks.setdefault(cid, asyncio.Lock())
        async with lock:
            await asyncio.to_thread(self._tidy)
            staged = self._folder / cid
            sources: dict[str, _AnySource] = {}
            if here := await self._is_here(cid):
                sources[OWN_STORE] = self._own
            for url in list(dict.fromkeys(urls))[:MAX_URLS]:
                try:
                    sources[url] = GatewayClient(self._peers, url, timeout_s=self._timeout_s)
                except ConfigError as error:
                    _log.warning("a source is left out", url=url, reason=error.detail)
            # A daemon then searches its peers, or hangs, for as long as that may take.
            if not here:
                sources[OWN_STORE] = self._own
            try:
                written = await _FirstOf(staged, sources).fetch(cid, target, max_bytes=max_bytes)
            except BlobTooLarge:
                # Nobody will continue this fetch.
                await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
                raise
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
            return written

    async def _is_here(self, cid: Cid) -> bool:
        """Return whether the store itself has the blob's root; False if it cannot say.

        Raises BlobDenied: what this node destroyed it fetches from nobody.
        """
        try:
            return await self._own.has(cid)
        except BlobDenied:
            raise
        except StorageError:
            return False

    def _tidy(self) -> None:
        try:
            make_private_folder(self._folder)
            for staged in self._folder.iterdir():
                if time.time() - staged.stat().st_mtime > _LEFTOVER_AGE_S:
                    shutil.rmtree(staged, ignore_errors=True)
        except OSError as error:
            raise StorageUnavailable(f"{self._folder} cannot be used: {error.strerror}") from error


_AnySource = BlockStore | GatewayClient


class _FirstOf(BlockSource):
    """Reads each block from the first source that has it, and keeps it in ``staged``."""

    def __init__(self, staged: Path, sources: dict[str, _AnySource]) -> None:
        self._staged = staged
        self._sources = dict(sources)
        self._said: list[str] = []
        self._own_fault: type[StorageError] | None = None

    async def _read_block(self, cid: Cid) -> bytes:
        kept = await asyncio.to_thread(_kept, self._staged / cid, cid)
        if kept is not None:
            return kept
        for name, source in list(self._sources.items()):
            try:
                data = await source.block(cid)
            except BlobNotFound as error:
                self._drop(name, error)
            except (StorageError, BuyerError) as error:
                _log.warning("a source is not asked again", source=name, reason=error.detail)
                if name == OWN_STORE and isinstance(error, StorageError):
                    self._own_fault = type(error)
                self._drop(name, error)
            else:
                await asyncio.to_thread(_keep, self._staged / cid, data)
                return data
        # A fault of this node's own disk is reported as such: its operator can repair it.
        kind = BlobNotFound if self._own_fault is None else self._own_fault
        raise kind(
            "no source has all of the blob; what arrived is kept for the next try. "
            + "; ".join(self._said[:_SAID])
            + (f"; and {len(self._said) - _SAID} more" if len(self._said) > _SAID else "")
        )

    def _drop(self, name: str, error: VizError) -> None:
        del self._sources[name]
        self._said.append(f"{name}: {error.detail}")


def _kept(path: Path, cid: Cid) -> bytes | None:
    """Return a block received earlier, None if it is missing or damaged. Blocks."""
    try:
        data = path.read_bytes()
        verify(cid, data)
    except (OSError, BlobCorrupt):
        return None
    return data


def _keep(path: Path, data: bytes) -> None:
    """Store a received block; if the disk fails, the fetch continues without it. Blocks."""
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        make_private_folder(path.parent)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        _log.warning("a received block could not be stored", reason=error.strerror)
