"""Keep the daemon's loops running: log an unexpected error, pause, and start the loop again.

One fault in one loop must not end a node that sells, claims and answers. A loop counts as failing
from its first failure until it has run for ``STEADY_S``, so that a loop that fails at every attempt
is reported as failing without a break. Invariant: only the errors in ``FATAL`` and a cancellation
end the daemon. ChainMismatch is fatal, because a ledger must not be used with another chain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from viz.domain.ports.clock import Clock
from viz.errors import ChainMismatch, VizError

FATAL: Final = (ChainMismatch,)
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
# After a loop ran this long, its next failure begins with the shortest pause again.
STEADY_S: Final = 120.0
_log = structlog.get_logger()


async def periodically(
    step: Callable[[], Awaitable[object]],
    interval_s: float,
    log: Callable[..., object],
    failed: str,
) -> None:
    """Take a step, pause for ``interval_s``, and so on until cancelled.

    A VizError is logged by ``log`` as the event ``failed``, and the next step is taken all the
    same. ChainMismatch and any other error ends the loop, which its Supervisor then judges.
    """
    while True:
        try:
            await step()
        except FATAL:
            raise
        except VizError as error:
            log(failed, reason=error.detail)
        await asyncio.sleep(interval_s)


@dataclass(frozen=True, slots=True)
class Failure:
    """A loop's failure: its start in seconds since 1970, and the message of its last error."""

    since_s: int
    error: str


class Supervisor:
    """Runs loops by name, and knows which of them fail."""

    def __init__(self, clock: Clock, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._clock = clock
        self._first_pause_s = first_pause_s
        self._failures: dict[str, Failure] = {}
        self._running_since_s: dict[str, float] = {}

    @property
    def failing(self) -> Mapping[str, Failure]:
        """The loops that failed and have not run for ``STEADY_S`` since."""
        return {name: found for name, found in self._failures.items() if not self._steady(name)}

    def _steady(self, name: str) -> bool:
        begun_s = self._running_since_s.get(name)
        return begun_s is not None and time.monotonic() - begun_s >= STEADY_S

    async def run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until it returns or is cancelled; start it again after each failure.

        Raises the errors in ``FATAL``.
        """
        pause_s = self._first_pause_s
        while True:
            self._running_since_s[name] = time.monotonic()
            try:
                await loop()
                self._failures.pop(name, None)
                return
            except FATAL:
                raise
            except Exception as error:  # noqa: BLE001  one loop must not end the node
                if self._steady(name):
                    pause_s = self._first_pause_s
                    self._failures.pop(name, None)
                self._note(name, error)
                _log.exception("a loop failed and is restarted", loop=name, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _note(self, name: str, error: Exception) -> None:
        before = self._failures.get(name)
        said = error.detail if isinstance(error, VizError) else f"{type(error).__name__}: {error}"
        self._failures[name] = Failure(before.since_s if before else self._clock.now_s(), said)
        del self._running_since_s[name]
