"""Call a node over HTTP from a command: bounded in time, with the node's problems as VizErrors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from socket import SHUT_RDWR
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import typer

from viz.client.node_address import checked
from viz.daemon_thread import in_daemon_thread
from viz.errors import NodeUnreachable, VizError
from viz.local_socket import OPERATOR_SOCKET, connected, listeners, may_read, peer_uid
from viz.protocol.answers import AnswerObject, read_as, too_long, value_of
from viz.protocol.sse import ServerEvent, SseReader

LOCAL_NODE: Final = "http://127.0.0.1:8402"
NodeUrl = Annotated[str, typer.Option("--node", envvar="VIZ_NODE_URL", help="The node's URL.")]
OperatedNode = Annotated[
    str,
    typer.Option(
        "--node",
        envvar="VIZ_NODE_URL",
        help=f"The node's URL. Default: its socket in the data folder, else {LOCAL_NODE}.",
        show_default=False,
    ),
]
OPERATOR_FILE: Final = "operator.token"
FOREIGN: Final = "another user's program listens there, so nothing was sent to it"
_REMEDY: Final = "start one with `viz up`, or check --node"
_TIMEOUT_S: Final = 120
# For what a node answers from its ledger or its disk: a short question, a short answer.
QUESTION_S: Final = 30
MAX_ANSWER_BYTES: Final = 32 << 20
MAX_EVENT_BYTES: Final = 4 << 20
_CHUNK_BYTES: Final = 64 << 10
T = TypeVar("T")
RPC_VARIABLE: Final = "VIZ_RPC_URL"


async def get_as(read: Callable[[Any], T], node: str, path: str, *, remedy: str = _REMEDY) -> T:
    """Return what the answer to a GET says; raise as ``ask``, and NodeRefused if it is none.

    It waits ``QUESTION_S`` at most.
    """
    return read_as(read, await ask("GET", node, path, timeout_s=QUESTION_S, remedy=remedy))


async def get_bytes(node: str, path: str, *, remedy: str = _REMEDY) -> bytes:
    """Return the answer to a GET as it is, at most ``MAX_ANSWER_BYTES``; raise as ``ask``."""
    exchange = Exchange("GET", node, path, None, token="", timeout_s=_TIMEOUT_S)
    return await _whole(node, exchange, exchange.whole, _TIMEOUT_S, remedy)


async def ask(
    method: str,
    node: str | Path,
    path: str,
    body: object = None,
    *,
    token: str = "",
    timeout_s: float = _TIMEOUT_S,
    remedy: str = _REMEDY,
) -> Any:
    """Return the JSON object of a node's answer, at most ``MAX_ANSWER_BYTES``; no redirect.

    ``node`` is its URL, or the folder of its operator's socket. ``remedy`` is what a person can do
    if no node answers; it differs where the URL is not that of --node. To look up a member that an
    object of the answer lacks raises NodeRefused. Raises ConfigError if it is not a URL,
    NodeUnreachable if no node answers there, and if the node refuses, the class of ``viz.errors``
    that its problem document names (RFC 9457).
    """
    exchange = Exchange(method, node, path, body, token=token, timeout_s=timeout_s)
    return await _whole(node, exchange, exchange.json, timeout_s, remedy)


async def _whole(
    node: str | Path, exchange: Exchange, read: Callable[[], T], timeout_s: float, remedy: str
) -> T:
    try:
        return await asyncio.wait_for(in_daemon_thread(read, name="http"), timeout_s)
    except TimeoutError as error:
        raise silent(node, timeout_s) from error
    except (OSError, HTTPException, ValueError) as error:
        raise unreachable(node, error, remedy) from error
    finally:
        exchange.abandon()


class Exchange:
    """One request and its answer over the standard library's HTTP.

    Importing aiohttp takes a third of a second of CPU, more than the rest of a command with one
    request.
    """

    def __init__(
        self,
        method: str,
        node: str | Path,
        path: str,
        body: object,
        *,
        token: str,
        timeout_s: float,
    ) -> None:
        self._connection, before = _connection(node, timeout_s)
        self._method, self._target = method, before + path
        self._body = None if body is None else json.dumps(body).encode()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if self._body is not None:
            self._headers["Content-Type"] = "application/json"

    def json(self) -> Any:
        """Return the answer's JSON object. Blocks. Raises the node's error."""
        return read_as(AnswerObject, _value(*self._read()))

    def whole(self) -> bytes:
        """Return the answer's body. Blocks. Raises the node's error."""
        raw, status = self._read()
        if not 200 <= status < 300:
            _value(raw, status)
        return raw

    def chunks(self) -> Iterator[bytes]:
        """Yield the answer's bytes as they arrive. Blocks. Raises the node's error."""
        answer = self._answer()
        if not 200 <= answer.status < 300:
            _value(answer.read(MAX_EVENT_BYTES), answer.status)
        while chunk := answer.read1(_CHUNK_BYTES):
            yield chunk

    def abandon(self) -> None:
        """Close the connection, also while another thread reads from it."""
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(SHUT_RDWR)
        self._connection.close()

    def _read(self) -> tuple[bytes, int]:
        answer = self._answer()
        raw = answer.read(MAX_ANSWER_BYTES + 1)
        if len(raw) > MAX_ANSWER_BYTES:
            raise too_long(answer.status, MAX_ANSWER_BYTES)
        return raw, answer.status

    def _answer(self) -> HTTPResponse:
        self._connection.request(self._method, self._target, self._body, self._headers)
        return self._connection.getresponse()


def _value(raw: bytes, status: int) -> Any:
    """Return the JSON value of an answer; raise the node's error, of any version."""
    return value_of(raw, status, unknown=VizError, max_values=None, object_hook=AnswerObject)


def require_not_foreign(url: str, secret: Path) -> None:
    """Raise NodeUnreachable if another user's program listens at this address of this machine.

    While the node is down, any user can take its port, and would receive the token in ``secret``.
    """
    parts = urlsplit(checked(url))
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    if is_local_name(parts.hostname or "") and any(
        not may_read(uid, secret) for uid in listeners(port)
    ):
        raise unreachable(url, ConnectionRefusedError(FOREIGN))


def is_local_name(host: str) -> bool:
    """Return whether a host name means this machine's loopback interface."""
    return host in ("localhost", "::1") or host.startswith("127.")


class _SocketConnection(HTTPConnection):
    """A connection to the operator's socket in a node's folder."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__("node", timeout=timeout_s)
        self._folder = folder

    def connect(self) -> None:
        made = connected(self._folder, OPERATOR_SOCKET, timeout_s=self.timeout)
        if not may_read(peer_uid(made), self._folder / OPERATOR_FILE):
            made.close()
            raise ConnectionRefusedError(FOREIGN)
        self.sock = made


def _connection(node: str | Path, timeout_s: float) -> tuple[HTTPConnection, str]:
    """Return an unopened connection, and the prefix of every path."""
    if isinstance(node, Path):
        return _SocketConnection(node, timeout_s), ""
    parts = urlsplit(checked(node))
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s), parts.path


async def events(
    node: str | Path, path: str, *, token: str, silence_s: float
) -> AsyncIterator[ServerEvent]:
    """Yield a node's server-sent events; raise as ``ask`` does."""
    exchange = Exchange("GET", node, path, None, token=token, timeout_s=silence_s)
    stream, reader = exchange.chunks(), SseReader(MAX_EVENT_BYTES)
    try:
        while (chunk := await in_daemon_thread(lambda: next(stream, b""), name="http")) != b"":
            for event in reader.feed(chunk):
                yield event
    except (OSError, HTTPException, TimeoutError, ValueError) as error:
        raise unreachable(node, error) from error
    finally:
        exchange.abandon()


def silent(node: str | Path, waited_s: float) -> NodeUnreachable:
    """Return the NodeUnreachable for a node that took the question and gave no whole answer."""
    return NodeUnreachable(
        f"the node at {node} gave no whole answer within {waited_s:g} seconds: it hangs or is too "
        "busy; try again later, or ask another node"
    )


def unreachable(node: str | Path, error: Exception, remedy: str = _REMEDY) -> NodeUnreachable:
    """Return the NodeUnreachable for an address where no node answers."""
    return NodeUnreachable(f"no node answers at {node} ({str(error) or 'time ran out'}): {remedy}")
