"""Serve a request with a name once, whoever repeats it.

Owns the names that buyers give to their requests. Unlike an idempotency key, a name stores nothing
of the answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from viz.domain.ports.clock import Clock
from viz.domain.units import Address
from viz.errors import InvalidRequest, StoreConflict
from viz.protocol.payment import MAX_NAME_CHARS, NAME_HEADER

NAMES_KEPT: Final = 65_536
NAME_KEPT_S: Final = 3_600


class NamedRequests:
    """The names of the requests that are under way or were served, each with its signer.

    They are in memory only: servers repeat a request within minutes, and after a restart of the
    node its buyer weighs a second bill as that of an answer that broke off. At most ``NAMES_KEPT``,
    for ``NAME_KEPT_S``.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._came_s: OrderedDict[tuple[Address, str], int] = OrderedDict()

    @contextmanager
    def once(self, signer: Address, name: str | None) -> Iterator[NamedRequest]:
        """Hold a request's name; forget it at the end if the request was not served.

        Raises StoreConflict if the name came before, InvalidRequest if it is too long or empty.
        """
        held = NamedRequest(name)
        if name is None:
            yield held
            return
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidRequest(f"{NAME_HEADER} has 1 to {MAX_NAME_CHARS} characters")
        self._forget_old()
        if (signer, name) in self._came_s:
            raise StoreConflict(
                "this request came before and is served once: its bill is among the receipts. A "
                "server in front of the node may have repeated it"
            )
        self._came_s[signer, name] = self._clock.now_s()
        try:
            yield held
        finally:
            if not held.served:
                self._came_s.pop((signer, name), None)

    def _forget_old(self) -> None:
        oldest_s = self._clock.now_s() - NAME_KEPT_S
        while self._came_s:
            came_s = next(iter(self._came_s.values()))
            if came_s >= oldest_s and len(self._came_s) < NAMES_KEPT:
                return
            self._came_s.popitem(last=False)


@dataclass(slots=True)
class NamedRequest:
    """One request, with its name if it has one.

    ``served``: the node began to answer it, so it may be billed.
    """

    name: str | None
    served: bool = False


NAMED: Final = web.AppKey("named", NamedRequests)
