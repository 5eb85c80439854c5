"""Read the directory of nodes. Its entries are the nodes' own words, which a reader must check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from viz.chain.contract import Contract
from viz.domain.ports.chain import NodeEntry
from viz.domain.units import Address


class NodeDirectory(Contract):
    """The nodes' URLs and keys, as they announced them."""

    name = "NodeDirectory"

    async def entry(self, node: Address) -> NodeEntry | None:
        """Return a node's entry; None if it is not listed."""
        found = await self._view("entryOf", node)
        return _node_entry(found) if found["url"] else None

    async def entries(self, offset: int = 0, limit: int = 100) -> tuple[NodeEntry, ...]:
        """Return up to ``limit`` entries; their order changes when a node leaves."""
        return tuple(_node_entry(found) for found in await self._view("list", offset, limit))


def _node_entry(found: Mapping[str, Any]) -> NodeEntry:
    return NodeEntry(Address(found["node"]), found["announcedAt"], found["url"], found["ageKey"])
