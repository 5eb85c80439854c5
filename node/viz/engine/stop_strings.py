"""Find stop strings in streamed text, and hold back text that may become one.

Invariant: the text that is returned never contains a stop string, nor any part of the stop string
that ended it.
"""

from __future__ import annotations


class StopStringFinder:
    """The stop strings of one sequence; returns text as soon as it cannot be part of one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; return (text that can be shown now, whether a stop string was found)."""
        held = self._held + text
        places = [place for stop in self._stops if (place := held.find(stop)) >= 0]
        if places:
            self._held = ""
            return held[: min(places)], True
        keep = max((self._overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """Return the text that was held back; call it after the last text."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of ``text`` that is a beginning of ``stop``."""
        return next(
            (
                size
                for size in range(min(len(stop) - 1, len(text)), 0, -1)
                if text.endswith(stop[:size])
            ),
            0,
        )
