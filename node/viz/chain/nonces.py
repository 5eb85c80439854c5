"""Decide which nonce an account's next transaction gets, and which gap before one is filled.

Owns what a process knows of one account's nonces, and does no I/O: ``viz.chain.sender`` asks the
endpoint, and signs. An endpoint tells two counts: *mined*, the account's transactions in blocks,
and *pending*, these and the ones that wait in line behind them. It may lag, forget what waits,
answer from machines at different heights, or lie; and somebody may send with the key by hand.

- N1. A nonce that an open transaction of the journal has is given to no other call.
- N2. The next nonce is the lowest one, from the counts on, that no open transaction has. So a gap
  is filled first, and what was sent by hand, which the pending count includes, keeps its place.
- N3. A count below a transaction whose receipt this process saw, and which is still there, is
  taken as if it included that transaction.
- N4. Mined is asked where pending contradicts what is known: where it is lower, or higher by more
  than ``MOST_APART`` and the open transactions. If the two are further apart than that, nothing is
  sent. If mined is that far from what is known, above or below, nothing is sent either, until each
  answer for ``LASTS_S`` said so. What is known moves with the receipts that this process saw, and
  otherwise once in ``LASTS_S``: so many small lies do not add up to a large one.
- N5. A gap before an open transaction that lasts ``LASTS_S`` is filled with empty transactions.
  Each gets exactly the nonce that the counts tell, and none follows until they include it: so they
  replace nothing that was sent by hand. Those up to ``MOST_FILLED`` nonces away are reached so.
- N6. What is further away is out of reach: filling would cost too much. A call whose repetition
  changes nothing is given up; any other stays open, and the account may come to it.

What this bounds: wrong answers, as long as none lasts ``LASTS_S``, send nothing, or transactions
that are at most twice as far ahead as N4 allows, and are mined once the gap is filled. Not bounded:
two wrong counts that agree when a process knows nothing yet, or for ``LASTS_S``; a transaction sent
by hand that the endpoint does not count, because it lags or lost an open one before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from viz.domain.units import Address, Hash32
from viz.errors import ChainUnreachable

# How far an endpoint's two counts may differ beyond the sender's own open transactions: others may
# send with the key by hand.
MOST_APART: Final = 64
# How long a gap lasts before it is filled, because a transaction may be on its way to the endpoint,
# and how long counts far from what is known are told before they are believed.
LASTS_S: Final = 30.0
# A gap of more nonces is not filled: it would take days, and coins.
MOST_FILLED: Final = 256


@dataclass(frozen=True, slots=True)
class NonceGap:
    """A gap that has lasted.

    Nonces below ``before`` are to be filled; None if only unreachable ones wait behind it. Open
    transactions with a nonce above ``reach`` are out of reach.
    """

    before: int | None
    reach: int


class AccountNonces:
    """What one process knows of an account's nonces; ``now_s`` is any clock that never goes back.

    The rules' numbers are those of the module.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        # How many transactions are in blocks, and since when a count said so; None before the first
        # two counts that agree.
        self._known: tuple[int, float] | None = None
        # The last transaction whose receipt was seen, and how many there are up to it.
        self._seen: Hash32 | None = None
        self.up_to_seen = 0
        # A mined count far from the known one, and since when every answer tells of it.
        self._told: tuple[int, float] | None = None
        # The lowest free nonce before an open transaction, and since when it is free.
        self._gap: tuple[int, float] | None = None

    def saw(self, transaction_hash: Hash32, nonce: int) -> None:
        """Take the receipt of a transaction with this nonce into account (N3)."""
        if nonce >= self.up_to_seen:
            self._seen, self.up_to_seen = transaction_hash, nonce + 1
            if self._known is not None:
                self._known = max(self._known[0], self.up_to_seen), self._known[1]

    def missed_by(self, pending: int) -> Hash32 | None:
        """Return whose receipt to look for: if it is there, pending is ``up_to_seen`` (N3)."""
        return self._seen if pending < self.up_to_seen else None

    def doubts(self, pending: int, open_count: int) -> bool:
        """Return whether the mined count must be asked too (N4)."""
        if self._known is None:
            return True
        known, _ = self._known
        return not known <= pending <= known + MOST_APART + open_count

    def start(self, pending: int, mined: int | None, open_count: int, now_s: float) -> int:
        """Return the lowest nonce that the counts leave; ``mined`` is None where there is no doubt.

        Raises ChainUnreachable if the counts contradict each other, or what is known (N4).
        """
        apart = MOST_APART + open_count
        told, self._told = self._told, None
        # Refused counts say nothing of a gap: its time begins again.
        gap, self._gap = self._gap, None
        if mined is not None:
            if abs(pending - mined) > apart:
                raise ChainUnreachable(
                    f"the endpoint says that {self._address} has sent {pending} transactions, and "
                    f"that {mined} of them are in blocks: nothing was sent. Try again, or name "
                    "another rpc_url (--rpc)"
                )
            known, since_s = self._known or (mined, now_s)
            far = abs(mined - known) > apart
            if far:
                if told is None or abs(mined - told[0]) > apart:
                    told = mined, now_s
                if now_s < told[1] + LASTS_S:
                    self._told = told
                    raise ChainUnreachable(
                        f"the endpoint says that {mined} transactions of {self._address} are in "
                        f"blocks, and {known} are known: nothing was sent. Try again in half a "
                        "minute, or name another rpc_url (--rpc)"
                    )
            if self._known is None or far or now_s >= since_s + LASTS_S:
                self._known = mined, now_s
        self._gap = gap
        return max(pending, mined or 0)

    def gap(self, start: int, taken: Collection[int], now_s: float) -> NonceGap | None:
        """Return the gap before the open nonces ``taken`` if it has lasted (N5, N6), else None."""
        free = lowest_free(start, taken)
        if not taken or free > max(taken):
            self._gap = None
            return None
        if self._gap is None or self._gap[0] != free:
            self._gap = free, now_s
        if now_s < self._gap[1] + LASTS_S:
            return None
        reach = free + MOST_FILLED
        return NonceGap(max((n for n in taken if free < n <= reach), default=None), reach)

    def filled(self, nonce: int) -> None:
        """Note that the gap's first nonce was filled: what is left of it is as old as it was."""
        if self._gap is not None:
            self._gap = nonce + 1, self._gap[1]


def lowest_free(start: int, taken: Collection[int]) -> int:
    """Return the lowest nonce from ``start`` on that is not taken (N1, N2)."""
    nonce = start
    while nonce in taken:
        nonce += 1
    return nonce
