"""Define the clock that services read."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall-clock seconds since the epoch; chain deadlines are read from chain time instead."""

    def now_s(self) -> int: ...
