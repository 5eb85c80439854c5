"""Listen on the daemon's port and on the operator's socket; if that fails, say what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import structlog
from aiohttp import web

from viz.api.connections.limit import BoundedSite, OperatorSite
from viz.errors import ConfigError

_log = structlog.get_logger()


async def listen(runner: web.AppRunner, host: str, port: int, *, max_connections: int) -> str:
    """Serve at an address and return its URL; raise ConfigError if listening there fails."""
    site = BoundedSite(runner, host, port, max_connections=max_connections)
    try:
        await site.start()
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return f"http://{host}:{runner.addresses[0][1]}"


async def listen_for_operator(runner: web.AppRunner, folder: Path) -> None:
    """Serve the operator on a socket in the node's folder; log a warning if that fails."""
    try:
        await OperatorSite(runner, folder).start()
    except OSError as error:
        _log.warning(
            "the operator's commands share the node's port with everybody",
            reason=f"no socket can be made in {folder}: {error.strerror}",
        )


def refuse_taken_port(host: str, port: int) -> None:
    """Raise ConfigError if the port is taken; call it before the model, which loads slowly."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(
        f"{host}:{port} cannot be listened on ({error.strerror}): stop what runs there, or set "
        "api.port"
    )
