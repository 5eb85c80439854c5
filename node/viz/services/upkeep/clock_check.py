"""Compare the machine's clock with the chain's time, and report a difference.

Quotes and sessions end by the machine's clock, deposits and closes by the chain's. If the two
differ by hours, nothing can be sold for a deposit, so no deposit is relayed then. Invariant: the
machine's clock is called ahead of the chain only after a reading of the pending block's time,
because an old head may also be a quiet chain. It is never called behind a development chain, whose
time can be moved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from viz.domain.ports.clock import Clock
from viz.errors import ChainUnreachable, ClockWrong
from viz.services.upkeep.supervision import periodically

TOLERATED_S: Final = 600
INTERVAL_S: Final = 60.0
_log = structlog.get_logger()


def plausible_s(chain_s: int, own_s: int, *, development: bool) -> int:
    """Return the chain's time; raise ChainUnreachable if it is far ahead of the machine's clock.

    Otherwise a signature with a deadline in chain time could be valid for ever. A development
    chain is not checked, because its time can be moved.
    """
    if not development and chain_s > own_s + TOLERATED_S:
        raise ChainUnreachable(
            f"the chain's time is {chain_s}, but the node's clock is at {own_s}: try again later. "
            "If this continues, the operator must set the clock, or change rpc_url"
        )
    return chain_s


def plausible_time(
    head_s: Callable[[], Awaitable[int]], clock: Clock, *, development: bool
) -> Callable[[], Awaitable[int]]:
    """Return a reader of the chain's time that raises as ``plausible_s`` does."""

    async def read() -> int:
        return plausible_s(await head_s(), clock.now_s(), development=development)

    return read


class ClockCheck:
    """Compares at an interval; ``state`` is ``ok``, or says by how much the clocks differ.

    ``wrong`` is True if the machine's clock is at fault.
    """

    def __init__(
        self,
        next_s: Callable[[], Awaitable[int | None]],
        head_s: Callable[[], Awaitable[int]],
        clock: Clock,
        *,
        development: bool,
    ) -> None:
        """Create the check.

        ``next_s`` returns the time of the pending block, or None if the endpoint has none. Then
        ``head_s`` is used, which returns the time of the newest block.
        """
        self._next_s = next_s
        self._head_s = head_s
        self._clock = clock
        self._development = development
        self._told = "ok"
        self.wrong = False
        self.state = "ok"

    async def run(self) -> None:
        """Compare every ``INTERVAL_S`` seconds, until cancelled."""
        await periodically(self.step, INTERVAL_S, _log.debug, "clocks not compared")

    async def step(self) -> None:
        """Compare once; raise ChainError if the chain does not answer."""
        next_s = await self._next_s()
        chain_s = await self._head_s() if next_s is None else next_s
        off_s = self._clock.now_s() - chain_s
        self.wrong = abs(off_s) > TOLERATED_S and (
            next_s is not None if off_s > 0 else not self._development
        )
        if abs(off_s) <= TOLERATED_S:
            self.state = "ok"
        else:
            side = "ahead of" if off_s > 0 else "behind"
            self.state = f"{abs(off_s)} s {side} the chain"
        self._tell()

    def require(self) -> None:
        """Raise ClockWrong if the machine's clock is wrong: a deposit could not be used."""
        if self.wrong:
            raise ClockWrong(
                f"the node's clock is {self.state}: nothing could be sold for this deposit. The "
                "node's operator must set the clock"
            )

    def _tell(self) -> None:
        state = "ok" if self.state == "ok" else self.state.split(" s ", 1)[1]
        if state == self._told:
            return
        self._told = state
        if state == "ok":
            _log.info("the clock agrees with the chain")
        else:
            _log.error(
                "the clock and the chain differ",
                clock=self.state,
                deposits="refused" if self.wrong else "taken",
                remedy="set the machine's clock by NTP; if it is right, the chain makes no blocks",
            )
