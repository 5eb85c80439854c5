"""Ask a node one thing without a session: JSON or a file is sent, and JSON is answered.

Creators use it, and whoever complains. Buyers use ``viz.client.node_client``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp

from viz.client.json_answer import ask_json
from viz.client.node_address import checked
from viz.errors import NodeUnreachable, VizError
from viz.protocol.answers import read_as

T = TypeVar("T")
_TIMEOUT_S: Final = 120
_UPLOAD_S: Final = 900
_MAX_ANSWER_BYTES: Final = 64 * 1024


async def exchange(
    read: Callable[[Any], T],
    method: str,
    node_url: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    other_way: str = "",
) -> T:
    """Return what a node's answer says, read by ``read``; bounded in size and time.

    ``body`` is sent as JSON, or unchanged if it is an open binary file. ``other_way`` is what
    the person can use instead, if the command has such an option.

    Raises the class that the node's problem names, with its text and the contract's reason
    (``contractError`` and its ``args``); NodeUnreachable if no node answers, or a server in front
    of it; NodeRefused if the answer is not that of a node.
    """
    sent: dict[str, Any] = {"data": body} if hasattr(body, "read") else {"json": body}
    try:
        async with aiohttp.ClientSession() as session:
            answer = await ask_json(
                session,
                method,
                checked(node_url) + path,
                within_s=_UPLOAD_S if "data" in sent else _TIMEOUT_S,
                read_s=_TIMEOUT_S,
                max_bytes=_MAX_ANSWER_BYTES,
                headers=headers,
                **sent,
            )
        return read_as(read, answer)
    except (aiohttp.ClientError, TimeoutError) as error:
        instead = f", or use {other_way}" if other_way else ""
        raise NodeUnreachable(
            f"no node answers at {node_url} ({str(error) or 'time ran out'}): check its URL"
            f"{instead}{_may_have(method)}"
        ) from error
    except VizError as error:
        if not error.answered:
            raise type(error)(f"{error.detail}{_may_have(method)}", **error.extensions) from error
        raise type(error)(f"the node refused: {error.detail}", **error.extensions) from error


def _may_have(method: str) -> str:
    """Say that the node may have got what was sent; a question changes nothing there."""
    if method == "GET":
        return ""
    return " (what was sent may have arrived at the node all the same)"
