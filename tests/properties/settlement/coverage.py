"""How often the histories reached what they should reach.

Owns the counts and their table. Knows no contract: a thing is a group and a name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable


class Tally:
    """Counts of one run: how many times each thing happened, and in how many histories."""

    def __init__(self) -> None:
        self.histories = 0
        self.times: dict[str, Counter[str]] = defaultdict(Counter)
        self.spread: dict[str, Counter[str]] = defaultdict(Counter)
        self._now: set[tuple[str, str]] = set()

    def note(self, group: str, name: str, times: int = 1) -> None:
        """Count something that just happened."""
        self.times[group][name] += times
        self._now.add((group, name))

    def end_history(self) -> None:
        self.histories += 1
        for group, name in self._now:
            self.spread[group][name] += 1
        self._now.clear()

    def missing(self, group: str, names: Iterable[str]) -> list[str]:
        """Return which of the names never happened."""
        return [name for name in names if not self.times[group][name]]

    def share(self, group: str, name: str) -> float:
        """Return in which part of the histories it happened."""
        return self.spread[group][name] / max(1, self.histories)

    def table(self) -> list[str]:
        """Return the lines of the table, a section for each group."""
        lines = [f"{self.histories} histories"]
        for group, counts in self.times.items():
            lines += ["", f"{group:58} {'times':>8} {'histories':>9}"]
            lines += [
                f"  {name:56} {times:8,} {self.spread[group][name]:9,}"
                for name, times in sorted(counts.items())
            ]
        return lines


TALLY = Tally()
