"""How much gas strangers may make this node spend: relays counted by the hour.

Owns the two bounds, in all and for each payer. Does not know what is relayed. Invariant: within
any hour no more relays are admitted than the bounds say; one that was never sent is given back, so
that who holds no money cannot use up what others need.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from viz.domain.ports import Clock
from viz.domain.units import Address
from viz.errors import RelayBusy

HOUR_S: Final = 3_600


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """The most deposits and closes that are sent within an hour at the node's expense."""

    per_hour: int = 600
    per_payer_per_hour: int = 30


class RelayBudget:
    """What may still be relayed now."""

    def __init__(self, clock: Clock, policy: RelayPolicy) -> None:
        self._clock = clock
        self._policy = policy
        self._sent: deque[tuple[int, Address]] = deque()

    def admit(self, payer: Address) -> None:
        """Count one relay for ``payer``; raise RelayBusy where the hour has no more."""
        now_s = self._clock.now_s()
        while self._sent and self._sent[0][0] <= now_s - HOUR_S:
            self._sent.popleft()
        own = [at_s for at_s, by in self._sent if by == payer]
        if len(own) >= self._policy.per_payer_per_hour:
            raise RelayBusy(
                f"this node relays {self._policy.per_payer_per_hour} transactions an hour for "
                f"{payer}: try again in {own[0] + HOUR_S - now_s} s, or send it yourself",
            )
        if len(self._sent) >= self._policy.per_hour:
            raise RelayBusy(
                f"this node relays {self._policy.per_hour} transactions an hour: try again in "
                f"{self._sent[0][0] + HOUR_S - now_s} s, or send it yourself",
            )
        self._sent.append((now_s, payer))

    def give_back(self, payer: Address) -> None:
        """Uncount the payer's last relay: it was refused before anything was sent."""
        for place in range(len(self._sent) - 1, -1, -1):
            if self._sent[place][1] == payer:
                del self._sent[place]
                return
