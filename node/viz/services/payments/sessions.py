"""Open sessions: give an access token to whoever signed this node's challenge.

``viz.services.payments.access_tokens`` keeps the tokens. Invariant: an access token is issued for a
signed Session that names this node, this origin and an unused challenge of this node. Only its hash
is stored.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from viz.domain.eip712 import Domain, recover
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import AccessLedger, AccessRecord
from viz.domain.typed_data import Session
from viz.domain.units import Address, Hash32
from viz.errors import AccessTokenInvalid, InvalidSignature, WrongDomain
from viz.protocol.messages import AccessToken, SessionProof
from viz.services.payments.access_tokens import AccessTokens

CHALLENGE_VALID_S: Final = 300
_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """Set the node's ``origin``, which buyers sign, and how long an access token is valid."""

    origin: str
    access_token_s: int = 3_600


class Sessions:
    """Challenge signers, and give each that answers an access token of this node."""

    def __init__(
        self,
        ledger: AccessLedger,
        clock: Clock,
        *,
        domain: Domain,
        node: Address,
        policy: SessionPolicy,
        has_channel: Callable[[Address], bool],
    ) -> None:
        """Keep the tokens of signers with ``has_channel`` in the ledger too."""
        self.node = node
        self._domain = domain
        self._clock = clock
        self._policy = policy
        self._challenge_key = secrets.token_bytes(32)
        self._tokens = AccessTokens(ledger, clock, has_channel)

    @property
    def origin(self) -> str:
        """The URL at which buyers reach this node, and which they sign."""
        return self._policy.origin

    def challenge(self, signer: Address) -> Session:
        """Return the Session for ``signer`` to sign; the access token expires with it."""
        expiry_s = self._clock.now_s() + self._policy.access_token_s
        salt = secrets.token_bytes(_SALT_BYTES)
        return Session(
            self.node, self._policy.origin, self._challenge_of(salt, signer, expiry_s), expiry_s
        )

    async def open_session(self, proof: SessionProof) -> AccessToken:
        """Return a new access token for the signer of a Session.

        Raises WrongDomain, AccessTokenInvalid, InvalidSignature.
        """
        session, signer = proof.session, proof.signer
        if session.node != self.node or session.origin != self._policy.origin:
            raise WrongDomain(
                f"the session is for {session.node} at {session.origin}; this is {self.node} at "
                f"{self._policy.origin}"
            )
        ours = self._challenge_of(session.challenge[:_SALT_BYTES], signer, session.expiry_s)
        if not hmac.compare_digest(ours, session.challenge):
            raise AccessTokenInvalid(
                "the challenge is not one of this node, or it was answered or is over: ask for a "
                "new one. If several servers answer at this address, they need one ledger"
            )
        until_s = session.expiry_s - self._policy.access_token_s + CHALLENGE_VALID_S
        if min(session.expiry_s, until_s) <= self._clock.now_s():
            raise AccessTokenInvalid("the session has expired: ask for a new challenge")
        if recover(self._domain.digest(session), proof.signature) != signer:
            raise InvalidSignature(f"the session is not signed by {signer}")
        token = await self._tokens.issue(
            session.challenge, signer, session.expiry_s, challenge_until_s=until_s
        )
        return AccessToken(token, session.expiry_s)

    async def authenticate(self, token: str) -> AccessRecord:
        """Return the access that the token gives; raise AccessTokenInvalid."""
        return await self._tokens.of(token)

    def holds(self, token: str) -> bool:
        """Return whether the token is in memory, so that looking it up reads no ledger."""
        return self._tokens.holds(token)

    # A challenge is a MAC, so that the node remembers nothing of one before it is answered.
    def _challenge_of(self, salt: bytes, signer: Address, expiry_s: int) -> Hash32:
        said = b"|".join((salt, signer.encode(), str(expiry_s).encode()))
        mac = hmac.new(self._challenge_key, said, sha256).digest()
        return Hash32(salt + mac[: 32 - _SALT_BYTES])
