"""Keep what the chain said of an adapter: whether a node may serve it, and until when it is sold.

Owns the time before an adapter's end at which its sale stops. Reads nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from viz.domain.ports.chain import ServingState
from viz.services.payments.freshness import Reading

# A claim after an adapter's end earns the node nothing. So its sale stops this long before. That is
# enough for running streams to end (minutes) and for their vouchers to be claimed, even if a claim
# fails and is repeated, or the chain's endpoint is down for a while. The contract announces the end
# two close delays before.
ENDING_MARGIN_S: Final = 3_600


@dataclass(slots=True, eq=False)
class Servability(Reading):
    """Hold an answer of the chain about one adapter, and the chain's time of that answer."""

    state: ServingState = field(default_factory=ServingState)
    chain_s: int = 0

    def over(self, now_s: int) -> bool:
        """Return whether the adapter ends too soon to be sold; the answer's age is added."""
        if self.state.until_s is None:
            return False
        return self.chain_s + max(0, now_s - self.seen_s) >= self.state.until_s - ENDING_MARGIN_S

    @property
    def sold_until_s(self) -> int | None:
        """Return the chain time at which the sale stops; None if the chain has set no end."""
        until_s = self.state.until_s
        return None if until_s is None else max(0, until_s - ENDING_MARGIN_S)


NEVER_READ: Final = Servability()
