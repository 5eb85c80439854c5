"""Keep the manifests of adapters that other nodes trained and this node serves.

A manifest is fetched from the node of the adapter's trainer, which the directory names, when the
adapter is put on offer here, and later if that node was away. Invariant: only the bytes whose hash
the chain names, signed by the trainer, are kept or returned.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from viz.domain.http_url import http_origin
from viz.domain.manifest import MAX_MANIFEST_BYTES, open_manifest
from viz.domain.ports.chain import AdapterState, ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import Address, Hash32
from viz.errors import VizError
from viz.private import make_private_folder, write_private
from viz.protocol.provenance_forms.facts import provenance_path

TIMEOUT_S: Final = 10.0
# Strangers ask for provenance: they must not make this node ask another one again and again.
AGAIN_S: Final = 600
_log = structlog.get_logger()


class Manifests:
    """The manifests of one node's adapters that were trained elsewhere."""

    def __init__(
        self, chain: ChainReader, peers: PeerHttp, clock: Clock, directory: Path, *, node: Address
    ) -> None:
        """Create it; ``directory`` holds the manifests, one file each."""
        self._chain, self._peers, self._clock = chain, peers, clock
        self._directory, self._node = directory, node
        self._ask_again_s: dict[Hash32, int] = {}

    async def get(self, adapter: AdapterState) -> bytes | None:
        """Return an adapter's manifest, from the disk or from its trainer's node.

        None if neither has it, or what that node answers is not what the chain names.
        """
        path = self._directory / f"{adapter.manifest_hash.hex()}.json"
        try:
            kept = await asyncio.to_thread(path.read_bytes)
            await asyncio.to_thread(open_manifest, kept, expected_hash=adapter.manifest_hash)
        except (OSError, VizError):
            return await self._fetched(adapter, path)
        return kept

    async def _fetched(self, adapter: AdapterState, path: Path) -> bytes | None:
        wanted, now_s = adapter.manifest_hash, self._clock.now_s()
        if adapter.trainer == self._node or now_s < self._ask_again_s.get(wanted, 0):
            return None
        self._ask_again_s[wanted] = now_s + AGAIN_S
        try:
            found = await self._asked(adapter)
            await asyncio.to_thread(open_manifest, found, expected_hash=wanted)
            await asyncio.to_thread(make_private_folder, self._directory)
            await asyncio.to_thread(write_private, path, found)
        except (VizError, OSError) as error:
            _log.info("manifest not fetched", adapter=adapter.adapter_id, reason=str(error))
            return None
        return found

    async def _asked(self, adapter: AdapterState) -> bytes:
        """Return what the trainer's node answers; empty if there is no such node or answer."""
        entry = await self._chain.node_entry(adapter.trainer)
        origin = http_origin(entry.url) if entry is not None else None
        if origin is None:
            return b""
        reply = await self._peers.call(
            "GET",
            f"{origin}{provenance_path(adapter.adapter_id)}/manifest",
            max_bytes=MAX_MANIFEST_BYTES,
            timeout_s=TIMEOUT_S,
        )
        return reply.body if reply.status == 200 else b""
