"""Keep a loop of the daemon running: log what it did not expect, pause, and go on.

One fault in one loop must not end a node that sells, claims and answers. Invariant: only what is in
``FATAL`` ends the daemon (books of one chain must not meet another), and a cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from viz.errors import ChainMismatch

FATAL: Final = (ChainMismatch,)
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
# A loop that ran this long since it last failed begins again with the shortest pause.
STEADY_S: Final = 120.0
_log = structlog.get_logger()


class Supervisor:
    """Runs loops by name; ``failing`` are those whose last attempt failed, with the reason."""

    def __init__(self, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._first_pause_s = first_pause_s
        self._failing: dict[str, str] = {}

    @property
    def failing(self) -> Mapping[str, str]:
        """The loops that wait after a failure, and the error that each met."""
        return self._failing

    async def run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until it returns or is cancelled, again after each failure.

        Raises what is in ``FATAL``.
        """
        pause_s = self._first_pause_s
        clock = asyncio.get_running_loop()
        while True:
            began_s = clock.time()
            try:
                await loop()
                return
            except FATAL:
                raise
            except Exception as error:  # noqa: BLE001  one loop must not end the node
                if clock.time() - began_s >= STEADY_S:
                    pause_s = self._first_pause_s
                self._failing[name] = f"{type(error).__name__}: {error}"
                _log.exception("a loop failed and goes on", loop=name, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            self._failing.pop(name, None)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
