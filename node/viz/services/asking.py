"""How often strangers may make this node ask its chain: requests counted by the minute.

Owns the two bounds, for each address and for all together. Does not know what is asked, nor who
has paid and is not counted. Invariant: within a minute no more is admitted than the bounds say, and
no more addresses are remembered than the bound for all lets in.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from viz.domain.ports.clock import Clock
from viz.errors import TooManyQuestions

MINUTE_S: Final = 60
ALL_TIMES: Final = 10


class Questions:
    """What may still be asked in this minute."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """Allow ``per_minute`` to each address, and ``ALL_TIMES`` as many to all together."""
        self._clock = clock
        self._per_minute = per_minute
        self._minute = 0
        self._asked: Counter[str] = Counter()

    def admit(self, address: str) -> None:
        """Count one request; raise TooManyQuestions where the minute has no more."""
        minute, past_s = divmod(self._clock.now_s(), MINUTE_S)
        if minute != self._minute:
            self._minute = minute
            self._asked.clear()
        everybody = self._asked.total() >= ALL_TIMES * self._per_minute
        if everybody or self._asked[address] >= self._per_minute:
            raise TooManyQuestions(
                f"this node asks its chain {self._per_minute} times a minute for an address that "
                f"has not paid: try again in {MINUTE_S - past_s} s"
            )
        self._asked[address] += 1
