"""Decide which writes are committed in the event loop's own thread.

The way to the writer's thread and back costs as much as the commit itself on a fast disk. But
while the loop's thread commits, the loop does nothing else. So it does this only for a short write,
while one request alone is being answered, and while the disk is fast. A disk that hangs therefore
stops the loop at most once: after a slow or refused commit the writer's thread commits, until
``FAST_COMMITS`` in it were fast.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

FAST_S: Final = 0.001
SLOW_S: Final = 0.005
FAST_COMMITS = 16


class LoneWrites:
    """Count the requests under way (``with``), and the fast commits since the last slow one."""

    def __init__(self) -> None:
        self._requests = 0
        self._fast = 0

    def __enter__(self) -> None:
        self._requests += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._requests -= 1

    @property
    def allowed(self) -> bool:
        """Whether the event loop's thread may commit now."""
        return self._requests == 1 and self._fast >= FAST_COMMITS

    def took(self, seconds: float, *, short: bool) -> None:
        """Note how long a commit took; ``short`` if it was one of those that may be lone."""
        if seconds >= SLOW_S:
            self._fast = 0
        elif short and seconds < FAST_S:
            self._fast += 1

    def failed(self) -> None:
        """Note that the database refused a transaction."""
        self._fast = 0
