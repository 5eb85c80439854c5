"""Choose the server that takes a request: where its adapter is, as long as that one is not busier.

Pure. Loading an adapter costs a server some of its memory and the request some of its time, so a
request goes where its adapter is already, until that server has much more to do than another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Protocol, TypeVar

# How many more requests a server may have than the least busy one before its adapters go elsewhere.
SLACK: Final = 8


class Placeable(Protocol):
    """What placement reads of a server."""

    @property
    def ready(self) -> bool: ...

    @property
    def running(self) -> int:
        """How many requests it has now."""
        ...

    def has(self, adapter: str) -> bool:
        """Return whether the adapter of this name is loaded there."""
        ...

    def refuses(self, adapter: str) -> bool:
        """Return whether it cannot serve this adapter."""
        ...


ServerT = TypeVar("ServerT", bound=Placeable)


def place(
    servers: Iterable[ServerT], adapter: str, avoid: Collection[ServerT] = ()
) -> ServerT | None:
    """Return the server for one request of ``adapter``; None if none may take it.

    Servers in ``avoid`` failed for this request already and are taken last.
    """
    able = [each for each in servers if each.ready and not each.refuses(adapter)]
    fresh = [each for each in able if each not in avoid]
    able = fresh or able
    if not able:
        return None
    least = min(each.running for each in able)
    near = [each for each in able if each.has(adapter) and each.running <= least + SLACK]
    return min(near or able, key=lambda each: each.running)
