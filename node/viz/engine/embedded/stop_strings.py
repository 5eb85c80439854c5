"""Stop strings over streamed text: what may be shown, and where to end.

Owns the text that might still turn into a stop string. Invariant: shown text never contains a
stop string nor, at the end, any part of the one that ended it.
"""

from __future__ import annotations


class StopStringFinder:
    """One sequence's stop strings; text goes in as it comes and out as soon as it is safe."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return (text that can be shown now, whether a stop string was met)."""
        held = self._held + text
        places = [place for stop in self._stops if (place := held.find(stop)) >= 0]
        if places:
            self._held = ""
            return held[: min(places)], True
        keep = max((self._overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """Return what was held back, once no more text can come."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of ``text`` that begins ``stop``."""
        return next(
            (
                size
                for size in range(min(len(stop) - 1, len(text)), 0, -1)
                if text.endswith(stop[:size])
            ),
            0,
        )
