"""Read blobs from other nodes through their trustless gateway, block by block.

Owns the HTTP requests of ``GET /ipfs/{cid}?format=raw`` and their bounds. The base class hashes
every block, so the gateway need not be trusted, and any gateway of the IPFS network can be used.
Source: the Trustless Gateway specification of IPFS.
"""

from __future__ import annotations

from typing import Final

from viz.domain.http_url import http_origin
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import Cid
from viz.errors import (
    BlobNotFound,
    BlobTooLarge,
    ConfigError,
    NodeRefused,
    NodeUnreachable,
    StorageUnavailable,
)
from viz.storage.base import BlockSource
from viz.storage.unixfs import MAX_BLOCK_BYTES

RAW_MEDIA_TYPE: Final = "application/vnd.ipld.raw"


class GatewayClient(BlockSource):
    """Reads another node's blobs through the gateway at ``base_url``."""

    def __init__(self, peers: PeerHttp, base_url: str, *, timeout_s: float = 30) -> None:
        """Use ``peers`` for requests; raise ConfigError if the URL is not http or https."""
        origin = http_origin(base_url)
        if origin is None:
            raise ConfigError(f"{base_url!r} is not a gateway's URL: write http(s)://host[:port]")
        self._peers, self._base, self._timeout_s = peers, origin, timeout_s

    async def _read_block(self, cid: Cid) -> bytes:
        try:
            reply = await self._peers.call(
                "GET",
                f"{self._base}/ipfs/{cid}?format=raw",
                headers={"Accept": RAW_MEDIA_TYPE},
                max_bytes=MAX_BLOCK_BYTES,
                timeout_s=self._timeout_s,
            )
        except NodeRefused as error:
            raise BlobTooLarge(f"{self._base} sent no block for {cid}: {error.detail}") from error
        except NodeUnreachable as error:
            raise StorageUnavailable(f"{self._base} did not send {cid}: {error.detail}") from error
        if reply.status in (404, 410, 451):
            raise BlobNotFound(f"{self._base} does not have {cid}")
        if reply.status != 200:
            raise StorageUnavailable(f"{self._base} answered HTTP {reply.status} for {cid}")
        return reply.body
