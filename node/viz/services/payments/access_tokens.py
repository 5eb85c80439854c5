"""Issue access tokens, and tell which signer a token stands for.

Owns the answered challenges and the issued tokens. ``viz.services.payments.sessions`` decides who
gets a token. Anybody can make keys and sign in. So the token of a stranger is kept in memory only,
and their number is bounded. The token of a signer who has a channel is also written to the ledger,
and survives a restart. Invariants:

- A challenge gives one token.
- Only the hash of a token is kept.
- A signer has at most ``TOKENS_EACH`` tokens. A new one replaces the oldest.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from viz.domain.eip712 import keccak
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import TOKENS_EACH, AccessLedger, AccessRecord
from viz.domain.units import Address, Hash32
from viz.errors import AccessTokenInvalid

OUR_MARK: Final = "viz_"
TOKENS_KEPT: Final = 65_536
CHALLENGES_KEPT: Final = 65_536
_TOKEN_BYTES: Final = 32


@dataclass(slots=True)
class _Held:
    access: AccessRecord
    challenge: Hash32
    is_durable: bool


class AccessTokens:
    """Hold the tokens of one node; those of a signer with ``has_channel`` go to the ledger too."""

    def __init__(
        self, ledger: AccessLedger, clock: Clock, has_channel: Callable[[Address], bool]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._has_channel = has_channel
        self._held: OrderedDict[Hash32, _Held] = OrderedDict()
        self._of: dict[Address, list[Hash32]] = {}
        self._answered: OrderedDict[Hash32, int] = OrderedDict()

    async def issue(
        self, challenge: Hash32, signer: Address, expires_at: int, *, challenge_until_s: int
    ) -> str:
        """Return a new token for an answered challenge; raise AccessTokenInvalid if it is used.

        ``challenge_until_s``: the challenge is not accepted after this time, so it need not be
        remembered longer. ``expires_at`` is the end of the token. Both are seconds since the epoch.
        """
        now_s = self._clock.now_s()
        while self._answered and (
            len(self._answered) >= CHALLENGES_KEPT or next(iter(self._answered.values())) <= now_s
        ):
            self._answered.popitem(last=False)
        if challenge in self._answered:
            raise AccessTokenInvalid("the challenge was used before: ask for a new one")
        self._answered[challenge] = challenge_until_s
        token = OUR_MARK + secrets.token_urlsafe(_TOKEN_BYTES)
        held = _Held(AccessRecord(token_hash(token), signer, expires_at), challenge, False)
        self._hold(held)
        await self._write_down(held)
        return token

    def holds(self, token: str) -> bool:
        """Return whether the token is in memory, so that looking it up reads no ledger."""
        return token_hash(token) in self._held

    async def of(self, token: str) -> AccessRecord:
        """Return the access that the token gives; raise AccessTokenInvalid."""
        name = token_hash(token)
        held = self._held.get(name)
        if held is None and is_ours(token):
            held = await self._read(name)
        if held is None or held.access.expires_at <= self._clock.now_s():
            self._drop(name)
            raise AccessTokenInvalid("the access token is unknown or has expired: sign a session")
        self._held.move_to_end(name)
        # The signer may have opened a channel since the token was issued.
        await self._write_down(held)
        return held.access

    async def _read(self, name: Hash32) -> _Held | None:
        access = await self._ledger.access(name)
        if access is None:
            return None
        held = _Held(access, Hash32(bytes(32)), True)
        self._hold(held)
        return held

    async def _write_down(self, held: _Held) -> None:
        if not held.is_durable and self._has_channel(held.access.signer):
            held.is_durable = True
            await self._ledger.admit(held.challenge, held.access)

    def _hold(self, held: _Held) -> None:
        name, signer = held.access.token_hash, held.access.signer
        self._held[name] = held
        names = self._of.setdefault(signer, [])
        names.append(name)
        if len(names) > TOKENS_EACH:
            self._drop(names[0])
        while len(self._held) > TOKENS_KEPT:
            self._drop(next(iter(self._held)))

    def _drop(self, name: Hash32) -> None:
        held = self._held.pop(name, None)
        if held is None:
            return
        names = self._of[held.access.signer]
        names.remove(name)
        if not names:
            del self._of[held.access.signer]


def token_hash(token: str) -> Hash32:
    """Return the hash under which a token is kept."""
    return keccak(token.encode())


def is_ours(token: str) -> bool:
    """Return whether a token has the form of a node's access token, not of another API key."""
    return token.startswith(OUR_MARK)
