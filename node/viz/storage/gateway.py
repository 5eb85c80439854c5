"""Read blobs from other nodes through their trustless gateway, block by block.

Owns the HTTP requests of ``GET /ipfs/{cid}?format=raw`` and their bounds. The base class hashes
every block, so the gateway need not be trusted, and any gateway of the IPFS network can be used.
Source: the Trustless Gateway specification of IPFS.
"""

from __future__ import annotations

from typing import Final

import aiohttp
from yarl import URL

from viz.domain.units import Cid
from viz.errors import BlobNotFound, BlobTooLarge, ConfigError, StorageUnavailable
from viz.storage.base import BlockSource
from viz.storage.unixfs import MAX_BLOCK_BYTES

RAW_MEDIA_TYPE: Final = "application/vnd.ipld.raw"


class GatewayClient(BlockSource):
    """Reads another node's blobs through the gateway at ``base_url``."""

    def __init__(
        self, http: aiohttp.ClientSession, base_url: str, *, timeout_s: float = 30
    ) -> None:
        """Use the caller's session; raise ConfigError if the URL is not http or https."""
        try:
            url = URL(base_url)
        except ValueError as error:
            raise ConfigError(
                f"{base_url!r} is not a gateway's URL: write http(s)://host[:port]"
            ) from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"{base_url!r} is not a gateway's URL: write http(s)://host[:port]")
        self._http = http
        self._base = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def _read_block(self, cid: Cid) -> bytes:
        url = (self._base / "ipfs" / cid).with_query(format="raw")
        try:
            async with self._http.get(
                url, headers={"Accept": RAW_MEDIA_TYPE}, timeout=self._timeout
            ) as response:
                if response.status in (404, 410):
                    raise BlobNotFound(f"{self._base} does not have {cid}")
                if response.status != 200:
                    raise StorageUnavailable(
                        f"{self._base} answered HTTP {response.status} for {cid}"
                    )
                data = bytearray()
                async for piece in response.content.iter_chunked(65_536):
                    data += piece
                    if len(data) > MAX_BLOCK_BYTES:
                        raise BlobTooLarge(f"{self._base} sent more than a block for {cid}")
                return bytes(data)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StorageUnavailable(
                f"{self._base} did not send {cid}: {error or 'no answer in time'}"
            ) from error
