"""Issue challenges that an account signs once.

A challenge is a MAC over the account and its expiry, so that nothing is stored before it is
answered. The MAC key is drawn at each start: a challenge of an earlier process is not accepted, so
that single use holds across restarts too.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from hashlib import sha256
from typing import Final

from viz.domain.ports.clock import Clock
from viz.domain.units import Address, Hash32
from viz.errors import AccessTokenInvalid, TooManyQuestions

VALID_S: Final = 300
MOST_USED: Final = 65_536
_SALT_BYTES: Final = 16


class Challenges:
    """The challenges of one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._used: OrderedDict[Hash32, int] = OrderedDict()

    def issue(self, account: Address) -> tuple[Hash32, int]:
        """Return a challenge for ``account`` and its expiry, in seconds since 1970."""
        expiry_s = self._clock.now_s() + VALID_S
        return self._made(secrets.token_bytes(_SALT_BYTES), account, expiry_s), expiry_s

    def require(self, challenge: Hash32, account: Address, expiry_s: int) -> None:
        """Raise AccessTokenInvalid if the challenge is another account's, expired or used."""
        ours = self._made(challenge[:_SALT_BYTES], account, expiry_s)
        if not hmac.compare_digest(ours, challenge):
            raise AccessTokenInvalid(
                f"the challenge is not one that this node made for {account} and this end: ask for "
                "one with that account, and sign with its key"
            )
        if expiry_s <= self._clock.now_s():
            raise AccessTokenInvalid("the challenge has run out: ask for a new one")
        if challenge in self._used:
            raise AccessTokenInvalid("the challenge was used before: ask for a new one")

    def spend(self, challenge: Hash32, expiry_s: int) -> None:
        """Mark the challenge as used; call it after ``require`` and the check of the signature.

        Raises TooManyQuestions if too many used challenges have not expired yet.
        """
        now_s = self._clock.now_s()
        while self._used and next(iter(self._used.values())) <= now_s:
            self._used.popitem(last=False)
        if len(self._used) >= MOST_USED:
            raise TooManyQuestions(
                "too many challenges were used lately: try again in a minute", retryAfter=60
            )
        self._used[challenge] = expiry_s

    def _made(self, salt: bytes, account: Address, expiry_s: int) -> Hash32:
        said = b"|".join((salt, account.encode(), str(expiry_s).encode()))
        mac = hmac.new(self._key, said, sha256).digest()
        return Hash32(salt + mac[: 32 - _SALT_BYTES])
