"""The access token with which a buyer asks for service.

Owns the session that the channel's key signs, and its renewal. Does not know money.

Invariant: a session is signed only for the node and the origin that were dialled, so that no node
can have another's session signed (THREATS 37).
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from viz.buyer.node_api import NodeApi
from viz.domain.eip712 import Domain, public_address, sign
from viz.domain.exchange import AccessToken, SessionProof
from viz.domain.ports.clock import Clock
from viz.domain.units import Address
from viz.errors import NodeNotTrusted

RENEW_BEFORE_S: Final = 30


class SystemClock:
    """Wall-clock seconds."""

    def now_s(self) -> int:
        return int(time.time())


class Access:
    """The access of one channel's key to its node."""

    def __init__(
        self, api: NodeApi, node: Address, session_key: bytes, domain: Domain, clock: Clock
    ) -> None:
        self._api = api
        self._node = node
        self._session_key = session_key
        self._domain = domain
        self._clock = clock
        self._token: AccessToken | None = None
        self._lock = asyncio.Lock()

    async def token(self) -> AccessToken:
        """Return an access token, signing a new session when there is none or it runs out."""
        async with self._lock:
            known = self._token
            if known is not None and known.expires_at_s > self._clock.now_s() + RENEW_BEFORE_S:
                return known
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

    def drop(self) -> None:
        """Sign a new session at the next need."""
        self._token = None
