"""Call a node's HTTP interface.

Owns requests, timeouts and size bounds. It sends what it is given, and does not judge what is worth
paying. A refusal names the node before the node's words. It never follows a redirect, because a
credential is for one node only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp

from viz.client.json_answer import MAX_HEADER_BYTES, ask_json, json_answer
from viz.client.node_address import origin_of
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Session
from viz.domain.units import Address
from viz.errors import InvalidRequest, NodeNotTrusted, NodeRefused, NodeUnreachable, VizError
from viz.protocol import payment
from viz.protocol.answers import no_answer, read_as
from viz.protocol.credential import Credential, credential_to_header
from viz.protocol.messages import (
    AccessToken,
    ChannelView,
    CloseAnswer,
    NodeInfo,
    SessionProof,
    session_challenge_from_json,
)
from viz.protocol.owner_actions import ACCOUNT_PATH, AccountView
from viz.protocol.problems import error_of, page_of_another, told_by
from viz.protocol.sse import EVENT_STREAM
from viz.protocol.wire import Json

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 30.0
VOUCHER_AGAIN_S: Final = 0.3
CHAIN_CALL_TIMEOUT_S: Final = 120.0  # the node waits for its transaction
STREAM_IDLE_TIMEOUT_S: Final = 120.0
CHALLENGE_HEADER: Final = "WWW-Authenticate"


class NodeClient:
    """The calls to one node. The caller closes the HTTP session.

    ``origin`` is the origin that the node's sessions must name: the one that is dialled, or another
    one if the caller reaches the node through a tunnel.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, origin: str | None = None) -> None:
        self._http = http
        self._dialled = origin_of(url)
        self.origin = origin_of(origin) if origin else self._dialled
        self._node: Address | None = None

    @property
    def who(self) -> str:
        """The node's URL and, once it has described itself, the address that it names."""
        return self._dialled if self._node is None else f"{self._dialled} ({self._node})"

    async def info(self) -> NodeInfo:
        """Return the node's description of itself; it is not verified."""
        info = read_as(NodeInfo.from_json, await self._call("GET", payment.NODE_PATH))
        self._node = info.node
        return info

    async def require_model(self, model: str) -> None:
        """Raise what the node says against a model: AdapterSuspended, AdapterEnded and others."""
        await self._call("GET", f"{payment.MODELS_PATH}/{quote(model, safe='')}")

    async def challenge(self, signer: Address) -> Session:
        """Return the Session struct that the node wants signed."""
        answer = await self._call("POST", payment.SESSION_CHALLENGE_PATH, body={"signer": signer})
        return read_as(session_challenge_from_json, answer)

    async def session(self, proof: SessionProof) -> AccessToken:
        """Exchange a signed Session for an access token."""
        answer = await self._call("POST", payment.SESSIONS_PATH, body=proof.to_json())
        return read_as(AccessToken.from_json, answer)

    async def deposit(self, credential: Credential) -> ChannelView:
        """Send an open or topUp for the node to relay."""
        again = "The deposit may have arrived"
        return await self._relayed(ChannelView.from_json, payment.CHANNELS_PATH, credential, again)

    async def account(self, account: Address) -> AccountView:
        """Return what the node says that an account has; NodeNotTrusted if it is of another."""
        found = read_as(
            AccountView.from_json, await self._call("GET", ACCOUNT_PATH.format(account=account))
        )
        if found.account != account:
            raise NodeNotTrusted(f"the node answers for {found.account}, not for {account}")
        return found

    async def channel(self, signer: Address, token: AccessToken) -> ChannelView:
        """Return what the node says about the signer's channel."""
        answer = await self._call(
            "GET", payment.CHANNEL_PATH.format(signer=signer), authorization=_bearer(token)
        )
        return read_as(ChannelView.from_json, answer)

    async def receipts(
        self, signer: Address, after: int, token: AccessToken
    ) -> tuple[SignedReceipt, ...]:
        """Return the receipts after number ``after``, the oldest first, as many as fit."""
        path = f"{payment.RECEIPTS_PATH.format(signer=signer)}?after={after}"
        answer = await self._call("GET", path, authorization=_bearer(token))
        return read_as(payment.receipts_from_json, answer)

    async def voucher(self, credential: Credential) -> ChannelView:
        """Send a voucher; return the channel after the node has accepted it.

        Sent once more if no answer of the node came: a second time it changes nothing.
        """
        sent = credential_to_header(credential)
        for again in (True, False):
            try:
                answer = await self._call("POST", payment.VOUCHERS_PATH, authorization=sent)
                return read_as(ChannelView.from_json, answer)
            except (NodeUnreachable, NodeRefused) as error:
                if error.answered or not again:
                    raise
                await asyncio.sleep(VOUCHER_AGAIN_S)
        raise AssertionError("the second try returns or raises")

    async def close(self, credential: Credential) -> CloseAnswer:
        """Request a cooperative close; return the node's Close and how it was sent."""
        again = "The channel may be closed all the same: look with `viz channel show`"
        return await self._relayed(CloseAnswer.from_json, payment.CLOSE_PATH, credential, again)

    async def _relayed(
        self, read: Callable[[Any], T], path: str, credential: Credential, again: str
    ) -> T:
        """Send what the node relays to its chain; ``again`` ends the error of a lost answer."""
        sent = credential_to_header(credential)
        try:
            answer = await self._call(
                "POST", path, authorization=sent, timeout_s=CHAIN_CALL_TIMEOUT_S
            )
            return read_as(read, answer)
        except (NodeUnreachable, NodeRefused) as error:
            if error.answered:
                raise
            raise type(error)(f"{error.detail}. {again}") from error

    @asynccontextmanager
    async def generate(
        self, path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the streaming response to a request for service, or a response with status 402.

        Raises the node's problem for every other refusal, and NodeUnreachable, also for an answer
        that is no stream.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CALL_TIMEOUT_S, sock_read=STREAM_IDLE_TIMEOUT_S
        )
        sent = {
            "Authorization": _bearer(token),
            "Content-Type": "application/json",
            "Accept": EVENT_STREAM,
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
                    raise told_by(await problem_of(response), self.who)
                if response.status == 200 and response.content_type != EVENT_STREAM:
                    raise page_of_another(response.status)
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
    ) -> Any:
        headers = {"Authorization": authorization} if authorization else {}
        try:
            return await ask_json(
                self._http,
                method,
                self._dialled + path,
                within_s=timeout_s or CALL_TIMEOUT_S,
                read_s=CALL_TIMEOUT_S,
                json=body,
                headers=headers,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NodeUnreachable(
                f"{self._dialled} does not answer {method} {path} ({_why(error)}): is the node "
                "running there?"
            ) from error
        except VizError as error:
            told_by(error, self.who)
            raise


def _bearer(token: AccessToken) -> str:
    return f"Bearer {token.token}"


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def challenge_of(response: aiohttp.ClientResponse) -> payment.Challenge | None:
    """Return the challenge in the node's 402, None if it has none; raise NodeRefused."""
    try:
        for header in map(payment.payment_scheme_in, response.headers.getall(CHALLENGE_HEADER, ())):
            if header:
                return payment.Challenge.from_header(header)
    except InvalidRequest as error:
        raise no_answer(error.detail) from error
    return None


async def problem_of(response: aiohttp.ClientResponse) -> VizError:
    """Return the typed error that a refused request's body names."""
    try:
        said = await json_answer(response, within_s=CALL_TIMEOUT_S)
    except VizError as error:
        return error
    return error_of(said, response.status)
