"""Decide how old a reading of the chain may be when the node sells on it, and renew readings.

Owns the age limits, one renewal task for each reading, and how long to wait for an endpoint that
fails or hangs. Invariants:

- A paid request that has no reading yet waits for the chain's answer. While the endpoint is not
  known to fail or hang, so does one whose reading has a fault or is older than ``OLDEST_S``, and
  one that needs a fresh reading, because its voucher is above the deposit that was read. In every
  other case it waits at most ``PATIENCE_S``.
- Each reading has one renewal at a time. While the endpoint answers, a caller who wants a fresh
  reading starts one more.
- While the endpoint fails, all readings together ask it less and less often.
- Nothing is sold on a reading older than ``OLDEST_S``.

It is safe to sell on an old reading. The node can claim what a channel owes until the payer may
withdraw, and that is a close delay (a day) after the close request, which the watcher reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from viz.domain.ports.clock import Clock
from viz.errors import ChainError, ChainUnreachable, VizError

SERVES_S: Final = 60
OLDEST_S: Final = 3_600
# How long a request waits for an endpoint that is not known to fail: ``MOMENT_S`` if the reading is
# younger than ``SERVES_S`` and can be used anyway, ``PATIENCE_S`` if it should be renewed.
MOMENT_S: Final = 0.05
PATIENCE_S: Final = 1.0
_FIRST_PAUSE_S: Final = 1
_LONGEST_PAUSE_S: Final = 30
_WARNING_S: Final = 60
_NEVER_S: Final = -(10**9)
_log = structlog.get_logger()


@dataclass(slots=True, eq=False, kw_only=True)
class Reading:
    """Hold when something was read from the chain, and the task that renews it.

    ``fault`` is set if the reading cannot be used because of an error on the node's side, for
    example if the ledger disagrees with it.
    """

    seen_s: int = _NEVER_S
    renewal: asyncio.Task[None] | None = None
    fault: VizError | None = None

    @property
    def exists(self) -> bool:
        """Whether it was read at least once."""
        return self.seen_s > _NEVER_S


class ChainAccess:
    """Track whether the chain's endpoint answers; all readings of one node share it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pause_s = 0
        self._ask_again_s = 0
        self._reason = ""
        self._hangs = False
        self._old = 0
        self._warned_s = _NEVER_S

    @property
    def reason(self) -> str:
        """Why the endpoint gives no readings; empty if it does."""
        return self._reason

    @property
    def impatient(self) -> bool:
        """Whether a request should not wait for the endpoint, not even for ``MOMENT_S``."""
        return self._hangs or bool(self._reason)

    @property
    def may_ask(self) -> bool:
        """Whether the pause after the last failure is over, or the clock was set back since."""
        return not 0 < self._ask_again_s - self._clock.now_s() <= self._pause_s

    def answered(self) -> None:
        """Note that the endpoint answered: forget earlier failures."""
        if self._reason:
            _log.info("the chain is read again")
        self._pause_s = self._ask_again_s = 0
        self._reason, self._hangs = "", False

    def failed(self, reason: str) -> None:
        """Note a failure; the pause before the next question doubles, up to the longest."""
        now_s = self._clock.now_s()
        if self.may_ask:  # readings that fail together count as one failure
            self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            self._ask_again_s = now_s + self._pause_s
        self._reason, self._hangs = reason, False

    def hangs(self) -> None:
        """Note that an answer is late: until it arrives, requests do not wait for the endpoint."""
        self._hangs = True

    def sold_on(self, age_s: int) -> None:
        """Count a request that was served on an old reading; log the count once a minute."""
        self._old += 1
        now_s = self._clock.now_s()
        if now_s - self._warned_s >= _WARNING_S:
            _log.warning(
                "serving on old readings of the chain",
                requests=self._old,
                age_s=age_s,
                reason=self._reason or "no answer yet",
                ends_at_age_s=OLDEST_S,
            )
            self._warned_s, self._old = now_s, 0


class Freshness:
    """Renew readings, each in a task of its own; all share one ``ChainAccess``."""

    def __init__(self, clock: Clock, access: ChainAccess) -> None:
        self._clock = clock
        self._access = access

    async def ensure(
        self,
        reading: Reading,
        renew: Callable[[], Awaitable[None]],
        *,
        within_s: int,
        fresh: bool = False,
    ) -> None:
        """Return once ``reading`` may be used; renew it if it is older than ``within_s``.

        ``renew`` reads the chain and sets ``seen_s``. With ``fresh``, the reading is renewed and
        waited for at any age. Raises ChainUnreachable if the reading is too old or absent, and the
        reading's fault if it has one.
        """
        now_s = self._clock.now_s()
        age_s = now_s - reading.seen_s
        if not fresh and reading.fault is None and 0 <= age_s < within_s:
            return
        if self._access.may_ask or not reading.exists or reading.renewal is not None:
            task = self._renewal(reading, renew, anew=fresh)
            await asyncio.wait({task}, timeout=self._patience_s(reading, age_s, fresh=fresh))
            if not task.done() and age_s >= SERVES_S:
                self._access.hangs()
        self._require(reading)

    def _patience_s(self, reading: Reading, age_s: int, *, fresh: bool) -> float | None:
        """Return how long a request waits for a renewal; None: until the renewal ends."""
        usable = reading.fault is None and age_s < OLDEST_S
        if not reading.exists or not (self._access.impatient or (usable and not fresh)):
            return None
        if self._access.impatient:
            return 0.0 if usable and not fresh else PATIENCE_S
        return MOMENT_S if age_s < SERVES_S else PATIENCE_S

    def _require(self, reading: Reading) -> None:
        if reading.fault is not None:
            raise type(reading.fault)(reading.fault.detail, **reading.fault.extensions)
        age_s = self._clock.now_s() - reading.seen_s
        if not reading.exists:
            raise ChainUnreachable(self._access.reason or "the chain cannot be read: ask again")
        if age_s >= OLDEST_S:
            raise ChainUnreachable(
                f"the chain was last read {age_s} s ago, and nothing is sold on a reading older "
                f"than {OLDEST_S} s: ask again later ({self._access.reason or 'no answer yet'})"
            )
        if age_s >= SERVES_S:
            self._access.sold_on(age_s)

    def _renewal(
        self, reading: Reading, renew: Callable[[], Awaitable[None]], *, anew: bool
    ) -> asyncio.Task[None]:
        """Return the task that renews the reading; with ``anew``, one that begins now.

        A renewal that runs already may have read the chain before the change that the caller wants
        to see. So ``anew`` starts another one, except while the endpoint fails or hangs.
        """
        before = reading.renewal
        if before is None or (anew and not self._access.impatient):
            task = asyncio.create_task(self._renew(reading, renew))
            reading.renewal = task
            task.add_done_callback(lambda done: _forget(reading, done))
            return task
        return before

    async def _renew(self, reading: Reading, renew: Callable[[], Awaitable[None]]) -> None:
        try:
            await renew()
        except ChainError as error:
            self._access.failed(error.detail)
        except VizError as error:
            if reading.fault is None:
                _log.error("a reading of the chain cannot be used", reason=error.detail)
            reading.fault = error
        except Exception as error:  # noqa: BLE001  whatever failed, the earlier reading still holds
            _log.exception("a reading of the chain failed")
            self._access.failed(f"{type(error).__name__} in the node: see its log")
        else:
            reading.fault = None
            self._access.answered()


def _forget(reading: Reading, done: asyncio.Task[None]) -> None:
    if reading.renewal is done:
        reading.renewal = None
