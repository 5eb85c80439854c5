"""Limit how often strangers make this node ask its chain, and share one answer among many.

Invariants:

- Within a minute no more requests are admitted than the limits allow, for each address and for all
  together.
- No more addresses are remembered than were admitted.
- The same thing is not read twice at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from viz.domain.ports.clock import Clock
from viz.errors import TooManyQuestions, VizError

T = TypeVar("T")
MINUTE_S: Final = 60
ALL_TIMES: Final = 10
QUIET_PART: Final = 60
SITE_PREFIX: Final = 48
SITE_SHARES: Final = 4
FAILURE_KEPT_S: Final = 2
LOOKS_KEPT: Final = 1_024
LOOKS_AT_ONCE: Final = 8
LOOKS_WAITING: Final = 64


class RateLimit:
    """Count the requests of a minute.

    Ten busy addresses can use up the limit for all together. So the same amount again is kept for
    quiet addresses, which have used less than 1/``QUIET_PART`` of their own limit. One subscriber
    may have many IPv6 networks. So all networks of one /48 together have the limit of
    ``SITE_SHARES`` addresses.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """Allow ``per_minute`` to each address, and ``ALL_TIMES`` as many to all together."""
        self._clock = clock
        self._per_minute = per_minute
        self._quiet = max(1, per_minute // QUIET_PART)
        self._minute = 0
        self._total = 0
        self._asked: Counter[str] = Counter()

    def admit(self, address: str, weight: int = 1) -> None:
        """Count a request as ``weight``; raise TooManyQuestions if the minute has no room."""
        minute, past_s = divmod(self._clock.now_s(), MINUTE_S)
        if minute != self._minute:
            self._minute, self._total = minute, 0
            self._asked.clear()
        asked, everybody = self._asked[address], ALL_TIMES * self._per_minute
        site = _site_of(address)
        of_site = self._asked[site] / SITE_SHARES if site else 0
        if max(asked, of_site) < self._quiet:
            everybody *= 2
        if max(asked, of_site) >= self._per_minute or self._total >= everybody:
            wait_s = MINUTE_S - past_s
            raise TooManyQuestions(
                f"this node takes {self._per_minute} such requests a minute from an address that "
                f"has not paid, and {ALL_TIMES} times as many from all: try again in {wait_s} s",
                retryAfter=wait_s,
            )
        self._asked[address] += weight
        if site:
            self._asked[site] += weight
        self._total += weight


@lru_cache(maxsize=8_192)
def _site_of(address: str) -> str:
    """Return the /48 around an IPv6 network, as a key for counting; "" for other addresses."""
    if ":" not in address:
        return ""
    try:
        network = ipaddress.IPv6Network(address, strict=False)
    except ValueError:
        return ""
    return f"site {network.supernet(new_prefix=min(SITE_PREFIX, network.prefixlen))}"


@dataclass(frozen=True, slots=True)
class _Look:
    until_s: int
    value: Any
    error: VizError | None


class Looks:
    """Keep what was read lately, and read each thing once at a time for all who ask."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Hashable, _Look] = OrderedDict()
        self._running: dict[Hashable, asyncio.Task[_Look]] = {}
        self._room = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._strangers = 0

    async def get(
        self,
        key: Hashable,
        read: Callable[[], Awaitable[T]],
        *,
        kept_s: int,
        admit: Callable[[], None] | None = None,
        own: bool = False,
    ) -> T:
        """Return what ``read`` returned; call it again if the last reading is ``kept_s`` old.

        ``admit`` is called before a new reading, and may refuse it by raising. A failure is kept
        for ``FAILURE_KEPT_S``, so that not every request asks a chain that does not answer. The
        node's ``own`` readings (its health, what it sells) never wait behind those that strangers
        ask for. Only a limited number of the latter waits; more raise TooManyQuestions.
        """
        look = self._kept.get(key)
        if look is None or self._clock.now_s() >= look.until_s:
            running = self._running.get(key)
            if running is None:
                if admit is not None:
                    admit()
                if not own and self._strangers >= LOOKS_AT_ONCE + LOOKS_WAITING:
                    raise TooManyQuestions(
                        "too many looks at the chain wait already: try again in a moment",
                        retryAfter=1,
                    )
                running = asyncio.ensure_future(
                    self._read(key, read, kept_s) if own else self._read_in_turn(key, read, kept_s)
                )
                self._running[key] = running
            # Shielded: a client that disconnects must not cancel the reading that others wait for.
            look = await asyncio.shield(running)
        if look.error is not None:
            failed = type(look.error)(look.error.detail, **look.error.extensions)
            failed.quotes = look.error.quotes
            raise failed from look.error
        value: T = look.value
        return value

    def forget(self, key: Hashable) -> None:
        """Drop a reading that is out of date because of this node's own action."""
        self._kept.pop(key, None)

    async def _read_in_turn(
        self, key: Hashable, read: Callable[[], Awaitable[Any]], kept_s: int
    ) -> _Look:
        self._strangers += 1
        try:
            async with self._room:
                return await self._read(key, read, kept_s)
        finally:
            self._strangers -= 1

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[Any]], kept_s: int) -> _Look:
        value, error = None, None
        try:
            value = await read()
        except VizError as found:
            error, kept_s = found, min(kept_s, FAILURE_KEPT_S)
        finally:
            self._running.pop(key, None)
        look = _Look(self._clock.now_s() + kept_s, value, error)
        self._kept[key] = look
        self._kept.move_to_end(key)
        while len(self._kept) > LOOKS_KEPT:
            self._kept.popitem(last=False)
        return look
