"""Keep what running training runs have reported so far, for commands that follow them.

The events are in memory only. Invariant: a run that was forgotten takes no memory here when its
last follower is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

_LOOK_AGAIN_S: Final = 5.0


class TrainingProgress:
    """Hold the events of each run since this process began or resumed it."""

    def __init__(self) -> None:
        self._events: dict[str, list[Mapping[str, Any]]] = {}
        self._changed = asyncio.Condition()

    async def tell(self, training_id: str, event: Mapping[str, Any]) -> None:
        """Add an event and wake the followers."""
        self._events.setdefault(training_id, []).append(event)
        await self.wake()

    async def wake(self) -> None:
        """Wake all followers, so that they read again."""
        async with self._changed:
            self._changed.notify_all()

    def of(self, training_id: str) -> Sequence[Mapping[str, Any]]:
        """Return a run's list of events; later events are added to the same list."""
        return self._events.setdefault(training_id, [])

    def last(self, training_id: str) -> Mapping[str, Any]:
        """Return a run's last event that tells its progress, or an empty mapping."""
        events = self._events.get(training_id, ())
        return next((e for e in reversed(events) if e.get("event") != "checkpoint"), {})

    def forget(self, training_id: str) -> None:
        """Drop the events of a run that has ended; its followers keep their list of them."""
        self._events.pop(training_id, None)

    async def beyond(self, events: Sequence[Mapping[str, Any]], seen: int) -> None:
        """Wait for more than ``seen`` events, for ``wake``, or at most ``_LOOK_AGAIN_S``."""
        async with self._changed:
            if len(events) == seen:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), timeout=_LOOK_AGAIN_S)
