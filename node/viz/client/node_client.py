"""Call a node's HTTP interface.

Owns requests, timeouts and size bounds. It sends what it is given, and does not judge what is worth
paying. It never follows a redirect, because a credential is for one node only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import aiohttp

from viz.client.node_address import origin_of
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Session
from viz.domain.units import Address
from viz.errors import InvalidRequest, NodeRefused, NodeUnreachable, VizError
from viz.protocol import payment
from viz.protocol.credential import Credential, credential_to_header
from viz.protocol.messages import (
    AccessToken,
    ChannelView,
    CloseAnswer,
    NodeInfo,
    SessionProof,
    session_challenge_from_json,
)
from viz.protocol.problems import error_of
from viz.protocol.wire import Json, parse_json

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 30.0
VOUCHER_AGAIN_S: Final = 0.3
CHAIN_CALL_TIMEOUT_S: Final = 120.0  # the node waits for its transaction
STREAM_IDLE_TIMEOUT_S: Final = 120.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_ANSWER_VALUES: Final = 262_144
# A challenge names the best voucher, whose lines can exceed aiohttp's default of 8 KiB.
MAX_HEADER_BYTES: Final = payment.MAX_CREDENTIAL_CHARS + 1024


class NodeClient:
    """The calls to one node. The caller closes the HTTP session.

    ``origin`` is the origin that the node's sessions must name: the one that is dialled, or another
    one if the caller reaches the node through a tunnel.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, origin: str | None = None) -> None:
        self._http = http
        self._dialled = origin_of(url)
        self.origin = origin_of(origin) if origin else self._dialled

    async def info(self) -> NodeInfo:
        """Return the node's description of itself; it is not verified."""
        return _read(NodeInfo.from_json, await self._call("GET", payment.NODE_PATH))

    async def challenge(self, signer: Address) -> Session:
        """Return the Session struct that the node wants signed."""
        answer = await self._call("POST", payment.SESSION_CHALLENGE_PATH, body={"signer": signer})
        return _read(session_challenge_from_json, answer)

    async def session(self, proof: SessionProof) -> AccessToken:
        """Exchange a signed Session for an access token."""
        answer = await self._call("POST", payment.SESSIONS_PATH, body=proof.to_json())
        return _read(AccessToken.from_json, answer)

    async def deposit(self, credential: Credential) -> ChannelView:
        """Send an open or topUp for the node to relay."""
        answer = await self._call(
            "POST",
            payment.CHANNELS_PATH,
            authorization=credential_to_header(credential),
            timeout_s=CHAIN_CALL_TIMEOUT_S,
        )
        return _read(ChannelView.from_json, answer)

    async def channel(self, signer: Address, token: AccessToken) -> ChannelView:
        """Return what the node says about the signer's channel."""
        answer = await self._call(
            "GET", payment.CHANNEL_PATH.format(signer=signer), authorization=_bearer(token)
        )
        return _read(ChannelView.from_json, answer)

    async def receipts(
        self, signer: Address, after: int, token: AccessToken
    ) -> tuple[SignedReceipt, ...]:
        """Return the receipts after number ``after``, the oldest first, as many as fit."""
        path = f"{payment.RECEIPTS_PATH.format(signer=signer)}?after={after}"
        answer = await self._call("GET", path, authorization=_bearer(token))
        return _read(payment.receipts_from_json, answer)

    async def voucher(self, credential: Credential) -> ChannelView:
        """Send a voucher; return the channel after the node has accepted it.

        Sent once more if no answer of the node came: a second time it changes nothing.
        """
        sent = credential_to_header(credential)
        try:
            answer = await self._call("POST", payment.VOUCHERS_PATH, authorization=sent)
        except NodeUnreachable:
            await asyncio.sleep(VOUCHER_AGAIN_S)
            answer = await self._call("POST", payment.VOUCHERS_PATH, authorization=sent)
        return _read(ChannelView.from_json, answer)

    async def close(self, credential: Credential) -> CloseAnswer:
        """Request a cooperative close; return the node's Close and how it was sent."""
        answer = await self._call(
            "POST",
            payment.CLOSE_PATH,
            authorization=credential_to_header(credential),
            timeout_s=CHAIN_CALL_TIMEOUT_S,
        )
        return _read(CloseAnswer.from_json, answer)

    @asynccontextmanager
    async def generate(
        self, path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the streaming response to a request for service, or a response with status 402.

        Raises the node's problem for every other refusal, and NodeUnreachable.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CALL_TIMEOUT_S, sock_read=STREAM_IDLE_TIMEOUT_S
        )
        sent = {
            "Authorization": _bearer(token),
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            payment.ACCEPT_HEADER: payment.ACCEPT_VALUE,
            **headers,
        }
        try:
            async with asyncio.timeout(STREAM_IDLE_TIMEOUT_S):
                began = await self._http.post(
                    self._dialled + path,
                    data=body,
                    headers=sent,
                    timeout=timeout,
                    allow_redirects=False,
                    max_field_size=MAX_HEADER_BYTES,
                )
            async with began as response:
                if response.status not in (200, 402):
                    raise await problem_of(response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NodeUnreachable(f"{self._dialled} broke off the answer: {_why(error)}") from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        authorization: str | None = None,
        timeout_s: float | None = None,
    ) -> Json:
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with (
                asyncio.timeout(timeout_s or CALL_TIMEOUT_S),
                self._http.request(
                    method,
                    self._dialled + path,
                    json=body,
                    headers=headers,
                    allow_redirects=False,
                    max_field_size=MAX_HEADER_BYTES,
                ) as response,
            ):
                answer = await _answer(response)
                if response.status != 200:
                    raise error_of(answer, response.status)
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NodeUnreachable(
                f"{self._dialled} does not answer {method} {path} ({_why(error)}): is the node "
                "running there?"
            ) from error


def _read(parse: Callable[[Json], T], answer: Json) -> T:
    """Return what an answer says; raise NodeRefused if it is not an answer of a node."""
    try:
        return parse(answer)
    except InvalidRequest as error:
        raise NodeRefused(f"the node does not answer as one: {error.detail}") from error


def _bearer(token: AccessToken) -> str:
    return f"Bearer {token.token}"


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _answer(response: aiohttp.ClientResponse) -> Json:
    parts: list[bytes] = []
    left = MAX_ANSWER_BYTES + 1
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            while left and (part := await response.content.read(left)):
                parts.append(part)
                left -= len(part)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NodeUnreachable(f"the node broke off its answer: {_why(error)}") from error
    raw = b"".join(parts)
    try:
        return parse_json(raw, max_bytes=MAX_ANSWER_BYTES, max_values=MAX_ANSWER_VALUES)
    except InvalidRequest as error:
        if response.status != 200:
            raise error_of(None, response.status) from error
        raise NodeRefused(f"the node answered {response.status} with no readable JSON") from error


async def problem_of(response: aiohttp.ClientResponse) -> VizError:
    """Return the typed error that a refused request's body names."""
    return error_of(await _answer(response), response.status)
