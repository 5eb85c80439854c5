"""An event loop whose clock jumps to the next timer: waits cost nothing, and lengths are exact.

For coroutines that do no real I/O. A loop that waits for nothing fails, as it could never end.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks as usual; ``time`` is the sum of what was waited for, in seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass while nothing runs."""
        self.run_until_complete(asyncio.sleep(seconds))


class _Jumping(selectors.BaseSelector):
    """Waits by setting the loop's clock forward."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop, self._inner = loop, selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("every coroutine waits for another one")
        self._loop.now_s += max(0.0, timeout)
        return self._inner.select(0)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()
