"""What training runs have reported so far, for commands that follow them.

Owns the events of runs that are under way, in memory. Does not know their records or what an
event means. Invariant: a run that was forgotten takes no memory here once its followers are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

_LOOK_AGAIN_S: Final = 5.0


class TrainingProgress:
    """The events of each run since this process took it up."""

    def __init__(self) -> None:
        self._events: dict[str, list[Mapping[str, Any]]] = {}
        self._changed = asyncio.Condition()

    async def tell(self, training_id: str, event: Mapping[str, Any]) -> None:
        """Add an event and wake the followers."""
        self._events.setdefault(training_id, []).append(event)
        await self.wake()

    async def wake(self) -> None:
        """Make every follower look again."""
        async with self._changed:
            self._changed.notify_all()

    def of(self, training_id: str) -> Sequence[Mapping[str, Any]]:
        """Return a run's events, to which later ones are added; hold on to it."""
        return self._events.setdefault(training_id, [])

    def last(self, training_id: str) -> Mapping[str, Any]:
        """Return a run's last event, or an empty one."""
        return (self._events.get(training_id) or [{}])[-1]

    def forget(self, training_id: str) -> None:
        """Let go of a run that has ended; who holds its events reads them to the end."""
        self._events.pop(training_id, None)

    async def beyond(self, events: Sequence[Mapping[str, Any]], seen: int) -> None:
        """Wait until there are more than ``seen`` events, someone wakes us, or a while is over."""
        async with self._changed:
            if len(events) == seen:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), timeout=_LOOK_AGAIN_S)
