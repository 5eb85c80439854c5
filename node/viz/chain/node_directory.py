"""Read the directory of nodes. Its entries are the nodes' own words, which a reader must check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viz.chain.contract import Contract
from viz.domain.units import Address


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """What a node says about itself in the directory: untrusted text that must be checked."""

    node: Address
    announced_at: int
    url: str
    age_key: str


class NodeDirectory(Contract):
    """The nodes' URLs and keys, as they announced them."""

    name = "NodeDirectory"

    async def entry(self, node: Address) -> NodeEntry | None:
        """Return a node's entry; None if it is not listed."""
        found = await self._view("entryOf", node)
        return _node_entry(found) if found["url"] else None

    async def entries(self, offset: int = 0, limit: int = 100) -> tuple[NodeEntry, ...]:
        """Return up to ``limit`` entries."""
        return tuple(_node_entry(found) for found in await self._view("list", offset, limit))


def _node_entry(found: Mapping[str, Any]) -> NodeEntry:
    return NodeEntry(Address(found["node"]), found["announcedAt"], found["url"], found["ageKey"])
