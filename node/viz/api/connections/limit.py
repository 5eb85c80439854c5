"""Listen on the node's sockets, and limit how many connections each one serves.

Owns the limit on open connections, and the answer to those beyond it. aiohttp serves the admitted
ones. Invariants:

- The public socket serves at most ``max_connections``. For connections from this machine there are
  ``SPARE`` more, so that a health check succeeds while strangers use up the rest.
- One client address holds at most 1/``SHARES`` of them, so that nobody can shut out all others by
  slow requests. A trusted proxy and this machine carry the connections of many clients, so they
  have no such limit.
- The operator's socket has its own places, which nobody else can take. A proxy on this machine
  makes strangers look like local clients, so ``SPARE`` does not protect the operator.
- At most ``TOLD`` refused connections are open, for at most ``TOLD_S`` seconds, to get their
  answer.
- A refused connection does not affect the others.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import secrets
import time
from abc import abstractmethod
from pathlib import Path
from typing import Final, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from viz.api.client_address import PROXIES, counted_as, is_in, parse_address
from viz.api.monitoring.metrics import METRICS
from viz.api.problems import ID_HEADER, PROBLEM_TYPE
from viz.local_socket import OPERATOR_SOCKET, bound, open_folder, remove
from viz.protocol.problems import CODE_URI

SPARE: Final = 8
SHARES: Final = 4
OPERATOR_CONNECTIONS: Final = 32
TOLD: Final = 64
TOLD_S: Final = 1.0
RETRY_AFTER_S: Final = 5
_LOG_EVERY_S: Final = 60.0
_log = structlog.get_logger()


def _refusal() -> bytes:
    """Return a whole 503, of which no more than its request id is new each time."""
    request_id = secrets.token_hex(8)
    said = "the node has as many connections as it serves: try again shortly"
    error = {"message": said, "type": "overloaded_error", "code": "http-503", "param": None}
    problem = {
        "type": CODE_URI + "http-503",
        "title": "Service Unavailable",
        "status": 503,
        "detail": said,
        "code": "http-503",
        "instance": request_id,
        "error": error,
    }
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{ID_HEADER}: {request_id}\r\n"
        f"Retry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def is_local(host: str) -> bool:
    """Return whether a peer's address is a loopback address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _peer(transport: asyncio.Transport) -> str:
    """Return the peer's address; "" if there is none, as on a Unix socket."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


class _Site(web.BaseSite):
    """Listen for a runner's application, and count the connections that were admitted."""

    def __init__(self, runner: web.AppRunner, *, what: str) -> None:
        """Make the site; ``what`` is the name of its limit in the log."""
        super().__init__(runner)
        self._what = what
        self._metrics = runner.app[METRICS]
        # The client of each connection, "" if the connection is not counted.
        self._served: dict[RequestHandler, str] = {}
        self._told: set[_TurnedAway] = set()
        self._logged_s = -_LOG_EVERY_S

    async def start(self) -> None:
        """Begin to listen; raise OSError if that fails."""
        await super().start()
        self._server = await self._listen(asyncio.get_running_loop())

    @abstractmethod
    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server: ...

    @abstractmethod
    def _most(self, transport: asyncio.Transport) -> int:
        """Return how many connections may be open, this one included."""

    def _client(self, transport: asyncio.Transport) -> str:
        """Return the client whose share a connection counts against, or "" for none."""
        return ""

    def _share(self) -> int:
        """Return how many connections one client may hold."""
        return OPERATOR_CONNECTIONS

    async def stop(self) -> None:
        await super().stop()
        for each in tuple(self._told):
            each.leave()

    def admit(self, transport: asyncio.Transport) -> None:
        """Give a new connection to the application, or refuse it."""
        server, client = self._runner.server, self._client(transport)
        open_now = set(server.connections) if server is not None else set()
        self._served = {each: whose for each, whose in self._served.items() if each in open_now}
        of_client = sum(whose == client for whose in self._served.values()) if client else 0
        has_its_share = of_client >= self._share()
        if server is not None and not has_its_share and len(self._served) < self._most(transport):
            handler = server()
            self._served[handler] = client
            transport.set_protocol(handler)
            handler.connection_made(transport)
            return
        self._metrics.turned_away()
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            of_whom = f"{client} has used its share; if it is a proxy, set api.trusted_proxies"
            why = of_whom if has_its_share else self._what
            _log.warning("connections turned away", open=len(self._served), why=why)
        if len(self._told) >= TOLD:
            transport.abort()
            return
        transport.set_protocol(_TurnedAway(transport, self._told))


class BoundedSite(_Site):
    """Listen at an address for everybody."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, *, max_connections: int
    ) -> None:
        super().__init__(runner, what="api.max_connections")
        self._host = host
        self._port = port
        self._max_connections = max_connections
        self._proxies = runner.app[PROXIES]

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self._port}"

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        return await loop.create_server(
            lambda: _Door(self), self._host, self._port, backlog=self._backlog
        )

    def _most(self, transport: asyncio.Transport) -> int:
        return self._max_connections + (SPARE if is_local(_peer(transport)) else 0)

    def _client(self, transport: asyncio.Transport) -> str:
        host = _peer(transport)
        address = parse_address(host)
        if address is None or is_local(host) or is_in(address, self._proxies):
            return ""
        return counted_as(address)

    def _share(self) -> int:
        return max(1, self._max_connections // SHARES)


class OperatorSite(_Site):
    """Listen on a Unix socket in the node's folder, which only the operator can reach."""

    def __init__(self, runner: web.AppRunner, folder: Path) -> None:
        """Make the site; the caller has the ledger of ``folder`` open, so no other node uses it."""
        super().__init__(runner, what="the operator's socket")
        self._folder = folder

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"unix:{self._folder / OPERATOR_SOCKET}"

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        directory = open_folder(self._folder)
        try:
            made = bound(directory, OPERATOR_SOCKET)
        finally:
            os.close(directory)
        return await loop.create_unix_server(lambda: _Door(self), sock=made, backlog=self._backlog)

    async def stop(self) -> None:
        await super().stop()
        directory = open_folder(self._folder)
        try:
            remove(directory, OPERATOR_SOCKET)
        finally:
            os.close(directory)

    def _most(self, transport: asyncio.Transport) -> int:
        return OPERATOR_CONNECTIONS


class _Door(asyncio.Protocol):
    """Admit or refuse a connection after it is made; a count from before would admit a burst."""

    def __init__(self, site: _Site) -> None:
        self._site = site

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._site.admit(cast(asyncio.Transport, transport))


class _TurnedAway(asyncio.Protocol):
    """Answer 503 once the client sends data; close silently if it sends none."""

    def __init__(self, transport: asyncio.Transport, others: set[_TurnedAway]) -> None:
        self._transport = transport
        self._others = others
        others.add(self)
        # Wait for the request: a client takes an answer that comes before it for an error.
        self._end = asyncio.get_running_loop().call_later(TOLD_S, self.leave)

    def data_received(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(_refusal())
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
        self._others.discard(self)

    def leave(self) -> None:
        """End the connection now."""
        self._transport.abort()
