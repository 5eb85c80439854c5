"""Compare the machine's clock with the chain's time, and say so where they part.

Quotes and sessions end by the machine's clock, deposits and closes by the chain's. Where the two
differ by hours deposits are taken and nothing can be sold, so no deposit is relayed then.
Invariant: a clock is only called wrong on a reading of what the next block's time would be; an old
head alone may be a quiet chain, and the future of a development chain, whose time can be moved, is
its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from viz.domain.ports.clock import Clock
from viz.errors import ChainError, ChainUnreachable, ClockWrong

TOLERATED_S: Final = 600
INTERVAL_S: Final = 60.0
_log = structlog.get_logger()


def plausible_s(chain_s: int, own_s: int, *, development: bool) -> int:
    """Return the chain's time; raise ChainUnreachable where it is far ahead of the own clock.

    What is signed until a time of the chain would else be valid for ever. A development chain's
    time can be moved.
    """
    if not development and chain_s > own_s + TOLERATED_S:
        raise ChainUnreachable(
            f"the chain's time is told as {chain_s}, and the node's clock is at {own_s}: try again "
            "in a while. If it stays so, its operator has to set the clock, or to change rpc_url"
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
    """Looks at an interval; ``state`` is ``ok`` or says by how much the clocks differ.

    ``wrong`` where it is the machine's clock that is at fault.
    """

    def __init__(
        self,
        next_s: Callable[[], Awaitable[int | None]],
        head_s: Callable[[], Awaitable[int]],
        clock: Clock,
        *,
        development: bool,
    ) -> None:
        """Compare with ``next_s``, the time of the block being made; where an endpoint has none,
        with ``head_s``, that of the newest."""
        self._next_s = next_s
        self._head_s = head_s
        self._clock = clock
        self._development = development
        self._told = "ok"
        self.wrong = False
        self.state = "ok"

    async def run(self) -> None:
        """Compare again and again, until cancelled."""
        while True:
            try:
                await self.step()
            except ChainError as error:
                _log.debug("clocks not compared", reason=error.detail)
            await asyncio.sleep(INTERVAL_S)

    async def step(self) -> None:
        """Compare once; raise ChainError where the chain cannot be asked."""
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
        """Raise ClockWrong while the machine's clock is wrong: a deposit could not be used."""
        if self.wrong:
            raise ClockWrong(
                f"the node's clock is {self.state}: nothing could be sold for this deposit. Its "
                "operator has to set the clock"
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
                remedy="set the machine's clock by NTP; if it is right, the chain stands still",
            )
