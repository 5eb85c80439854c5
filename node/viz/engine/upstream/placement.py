"""Choose the server for a request: one that has its adapter, unless it is much busier.

Pure. Loading an adapter costs a server memory and the request time. So a request goes to a server
that has its adapter already, until that server has many more requests than another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Protocol, TypeVar

# A server may have this many more requests than the least busy one before others are used.
SLACK: Final = 8


class Placeable(Protocol):
    """What placement reads of a server."""

    @property
    def ready(self) -> bool: ...

    @property
    def running(self) -> int:
        """The number of requests that it is running."""
        ...

    def has(self, adapter: str) -> bool:
        """Return whether the adapter of this name is loaded."""
        ...

    def refuses(self, adapter: str) -> bool:
        """Return whether the server cannot serve this adapter."""
        ...


ServerT = TypeVar("ServerT", bound=Placeable)


def place(
    servers: Iterable[ServerT], adapter: str, avoid: Collection[ServerT] = ()
) -> ServerT | None:
    """Return the server for one request of ``adapter``; None if no server is possible.

    Servers in ``avoid`` have failed for this request already, so they are chosen last.
    """
    able = [each for each in servers if each.ready and not each.refuses(adapter)]
    fresh = [each for each in able if each not in avoid]
    able = fresh or able
    if not able:
        return None
    least = min(each.running for each in able)
    near = [each for each in able if each.has(adapter) and each.running <= least + SLACK]
    return min(near or able, key=lambda each: each.running)
