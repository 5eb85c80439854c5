"""Asking a node over HTTP from a command: timeouts, and its problem documents as our errors."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import aiohttp
import typer

from viz import errors
from viz.errors import ConfigError, NodeUnreachable, VizError

NodeUrl = Annotated[
    str, typer.Option("--node", envvar="VIZ_NODE_URL", help="Where the node answers.")
]
_TIMEOUT_S: Final = 120
RPC_VARIABLE: Final = "VIZ_RPC_URL"


def checked(url: str, what: str = "a node's address") -> str:
    """Return a URL without its last slash; raise ConfigError when it is no HTTP URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{url!r} is not {what}: write it as http://host:port")
    return url.rstrip("/")


async def get_json(node: str, path: str, *, token: str = "") -> Any:
    """Return the JSON answer of GET; raises what ``ask`` does."""
    return await ask("GET", node, path, token=token)


async def ask(
    method: str,
    node: str,
    path: str,
    body: object = None,
    *,
    token: str = "",
    timeout_s: int = _TIMEOUT_S,
) -> Any:
    """Return a node's JSON answer.

    Raises ConfigError, NodeUnreachable when nothing answers as a node, and the class of
    ``viz.errors`` that the node's problem document names (RFC 9457) when it refuses.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.request(method, checked(node) + path, json=body) as answer,
        ):
            content = await answer.json(content_type=None)
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise unreachable(node, error) from error
    if status >= 400:
        raise refusal(content, status)
    return content


def unreachable(node: str, error: Exception) -> NodeUnreachable:
    """Return the error of a node that does not answer as one."""
    return NodeUnreachable(
        f"no node answers at {node} ({str(error) or 'time ran out'}): start one with `viz up`, or "
        "check --node"
    )


def refusal(content: object, status: int) -> VizError:
    """Return the error that a problem document describes."""
    problem = content if isinstance(content, dict) else {}
    if isinstance(problem.get("error"), dict) and "code" not in problem:
        problem = problem["error"]
    detail = str(problem.get("detail") or problem.get("message") or f"HTTP {status}")
    kind = _classes().get(str(problem.get("code")), errors.VizError)
    return kind(detail)


def _classes() -> dict[str, type[VizError]]:
    found: dict[str, type[VizError]] = {}
    waiting: list[type[VizError]] = [VizError]
    while waiting:
        each = waiting.pop()
        found[each.code] = each
        waiting += each.__subclasses__()
    return found
