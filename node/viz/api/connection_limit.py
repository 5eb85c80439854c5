"""The listening socket, and how many connections it lets in.

Owns the bound on open connections and what is said to the one beyond it. Does not know requests:
who is let in is aiohttp's. Invariants: at most ``max_connections`` are served, and ``SPARE`` more
of this machine's own, so that whoever watches or operates the node reaches it while strangers fill
it; at most ``TOLD`` others are open, for ``TOLD_S`` at most, to be told; a connection that is
turned away costs the others nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from typing import Final, cast

import structlog
from aiohttp import web

from viz.api.metrics import METRICS
from viz.api.problems import CODE_URI, PROBLEM_TYPE

SPARE: Final = 8
TOLD: Final = 64
TOLD_S: Final = 1.0
RETRY_AFTER_S: Final = 5
_LOG_EVERY_S: Final = 60.0
_log = structlog.get_logger()


def _refusal() -> bytes:
    said = "the node has as many connections as it serves: try again shortly"
    error = {"message": said, "type": "overloaded_error", "code": "http-503", "param": None}
    problem = {
        "type": CODE_URI + "http-503",
        "title": "Service Unavailable",
        "status": 503,
        "detail": said,
        "code": "http-503",
        "error": error,
    }
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_REFUSAL: Final = _refusal()


def is_local(host: str) -> bool:
    """Return whether a peer's address is this machine's own."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class BoundedSite(web.BaseSite):
    """Listens for a runner's application; all its sites share the count of what is open."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, *, max_connections: int
    ) -> None:
        """Make the site; ``start`` listens, and raises OSError where it cannot."""
        super().__init__(runner)
        self._host = host
        self._port = port
        self._most = max_connections
        self._metrics = runner.app[METRICS]
        self._told: set[_TurnedAway] = set()
        self._logged_s = -_LOG_EVERY_S

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Door(self), self._host, self._port, backlog=self._backlog
        )

    async def stop(self) -> None:
        await super().stop()
        for each in tuple(self._told):
            each.leave()

    def admit(self, transport: asyncio.Transport) -> None:
        """Give a new connection to the application, or turn it away."""
        server = self._runner.server
        peer = transport.get_extra_info("peername")
        most = self._most + (SPARE if peer and is_local(str(peer[0])) else 0)
        if server is not None and len(server.connections) < most:
            handler = server()
            transport.set_protocol(handler)
            handler.connection_made(transport)
            return
        self._metrics.turned_away()
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            _log.warning("connections turned away", open=most, why="api.max_connections")
        if len(self._told) >= TOLD:
            transport.abort()
            return
        transport.set_protocol(_TurnedAway(transport, self._told))


class _Door(asyncio.Protocol):
    """Decides once a connection is there: a count taken before would let a burst through."""

    def __init__(self, site: BoundedSite) -> None:
        self._site = site

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._site.admit(cast(asyncio.Transport, transport))


class _TurnedAway(asyncio.Protocol):
    """Tells whoever asks that there is no room, and whoever does not ask nothing."""

    def __init__(self, transport: asyncio.Transport, others: set[_TurnedAway]) -> None:
        self._transport = transport
        self._others = others
        others.add(self)
        # Not told before it asked: a client takes an answer before its question for a fault.
        self._end = asyncio.get_running_loop().call_later(TOLD_S, self.leave)

    def data_received(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(_REFUSAL)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
        self._others.discard(self)

    def leave(self) -> None:
        """End the connection now."""
        self._transport.abort()
