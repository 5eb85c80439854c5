"""Define how services ask other nodes, whose URLs come from strangers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class PeerReply(Protocol):
    """A complete answer; ``headers`` have lower-case names."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> bytes: ...


class PeerHttp(Protocol):
    """Sends requests to other nodes: only to public addresses, limited in bytes and time."""

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: dict[str, Any] | None = None,
        max_bytes: int = ...,
        timeout_s: float = ...,
    ) -> dict[str, Any]:
        """Return the JSON object that a node answers.

        Raises the node's own problem if it refuses, AddressNotPublic, NodeUnreachable, NodeRefused.
        """
        ...

    async def call(
        self,
        method: str,
        url: str,
        *,
        json: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int,
        timeout_s: float = ...,
    ) -> PeerReply:
        """Return the answer, whatever its status; raise as ``ask``, except a node's problem."""
        ...

    async def close(self) -> None: ...
