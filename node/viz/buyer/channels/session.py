"""Get and renew the access token with which a buyer asks for service.

Owns the session that the channel's key signs, and its renewal.

Invariant: a session is signed only for the node and the origin that were dialled, so that no node
can get a signature for another node's session (threat 37).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from viz.client.node_client import NodeClient
from viz.domain.eip712 import Domain, public_address, sign
from viz.domain.units import Address
from viz.errors import AccessTokenInvalid, NodeNotTrusted
from viz.protocol.messages import AccessToken, SessionProof

T = TypeVar("T")


class BuyerSession:
    """The access of one channel's key to its node."""

    def __init__(self, api: NodeClient, node: Address, session_key: bytes, domain: Domain) -> None:
        self._api = api
        self._node = node
        self._session_key = session_key
        self._domain = domain
        self._token: AccessToken | None = None
        self._lock = asyncio.Lock()

    async def use(self, call: Callable[[AccessToken], Awaitable[T]]) -> T:
        """Make a call with the access token; repeat it with a new one if the node refuses this.

        Only the node can say that a token has expired or is unknown: this machine's clock may
        differ from the node's.
        """
        token = await self.token()
        try:
            return await call(token)
        except AccessTokenInvalid:
            self.drop(token)
            return await call(await self.token())

    async def token(self) -> AccessToken:
        """Return the access token; sign a new session if there is none.

        Raises NodeNotTrusted if the session is for another node or origin, and the node's refusals.
        """
        async with self._lock:
            if self._token is not None:
                return self._token
            signer = public_address(self._session_key)
            session = await self._api.challenge(signer)
            if session.node != self._node:
                raise NodeNotTrusted(f"the session to sign is for node {session.node}")
            if session.origin != self._api.origin:
                raise NodeNotTrusted(
                    f"the session to sign is for {session.origin}, and {self._api.origin} was "
                    "dialled: dial the node by the origin that it names"
                )
            signature = sign(self._session_key, self._domain.digest(session))
            self._token = await self._api.session(SessionProof(signer, session, signature))
            return self._token

    def drop(self, token: AccessToken) -> None:
        """Forget ``token`` if it is still in use; the next call signs a new session."""
        if self._token is token:
            self._token = None
