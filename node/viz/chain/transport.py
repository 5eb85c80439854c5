"""Send one JSON-RPC request over HTTP; the only module that uses web3.

Owns the HTTP session and the bounds of an answer: its size, and the depth of its JSON. The depth
is bounded because web3's own parser overflows the stack on deeply nested JSON, which ends the
process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

import aiohttp
from web3 import AsyncHTTPProvider
from web3.types import RPCEndpoint, RPCResponse

from viz.domain.strict_json import load_json

# The logs of thousands of blocks take several MiB.
MAX_ANSWER_BYTES: Final = 64 << 20
_LARGE_BYTES: Final = 256 << 10


class TooLarge(ValueError):
    """The answer is larger than ``MAX_ANSWER_BYTES``."""


class BoundedProvider(AsyncHTTPProvider):
    """web3's provider for one URL, with bounded answers and kept-alive connections."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        super().__init__(url, exception_retry_configuration=None)
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession | None = None

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Send the request and return the answer as JSON of any shape.

        Raises aiohttp.ClientError (ClientResponseError for an HTTP error), TimeoutError, and
        ValueError if the answer is not JSON or, as TooLarge, is too large.
        """
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=self._timeout, raise_for_status=True)
        question = self.encode_rpc_request(method, params)
        headers = self.get_request_headers()
        async with self._http.post(self._url, data=question, headers=headers) as response:
            raw = bytearray()
            async for piece in response.content.iter_any():
                raw += piece
                if len(raw) > MAX_ANSWER_BYTES:
                    raise TooLarge(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
        if len(raw) > _LARGE_BYTES:
            return await asyncio.to_thread(_read, bytes(raw))
        return _read(bytes(raw))

    async def post(self, method: str, params: Sequence[Any]) -> Any:
        """Send the request and return the answer, as ``make_request`` does."""
        return await self.make_request(RPCEndpoint(method), list(params))

    async def disconnect(self) -> None:
        """Close the HTTP session."""
        if self._http is not None:
            await self._http.close()


def _read(raw: bytes) -> RPCResponse:
    # The number of values is not bounded: the operator chose the endpoint, and the logs of a long
    # range have a million values. Nobody signs its answers.
    return cast(RPCResponse, load_json(raw, max_values=None, last_counts=True))
