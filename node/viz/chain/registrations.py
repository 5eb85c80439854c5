"""Find the registration events of adapters in the chain's history, reading it only once.

Owns an index of the events by block, and a cache of the events that were read last.
``viz.chain.contracts`` reads an adapter's present state. Invariants: history is scanned once, for
any number of adapters and requests; a returned event has the share table whose hash the registry
holds, also after a reorganisation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from viz.chain import abi
from viz.chain.log_completeness import logs_missing
from viz.chain.rpc import Rpc
from viz.chain.scan import scan
from viz.domain.shares import shares_from_words, shares_hash
from viz.domain.units import AdapterId, Address, Hash32

KEPT: Final = 1_024
# The newest blocks, which a reorganisation may replace, are scanned again each time: one request.
REORG_BLOCKS: Final = 64
_CONTRACT: Final = "AdapterRegistry"


class AdapterRegistrations:
    """Finds what adapters were registered with: their CID and share table."""

    def __init__(self, rpc: Rpc, registry: Address, first_block: int) -> None:
        self._rpc = rpc
        self._registry = registry
        self._first_block = self._next_block = first_block
        self._blocks: dict[AdapterId, int] = {}
        self._kept: OrderedDict[AdapterId, Mapping[str, Any]] = OrderedDict()
        self._with: dict[Hash32, set[AdapterId]] = {}
        self._scanning = asyncio.Lock()

    async def of(self, adapter_id: AdapterId, table: Hash32) -> Mapping[str, Any]:
        """Return the arguments of the adapter's event whose share table has the hash ``table``.

        Raises ChainError if the endpoint serves no such event, ChainUnreachable.
        """
        if (found := self._known(adapter_id, table)) is not None:
            return found
        async with self._scanning:
            if (found := self._known(adapter_id, table)) is not None:
                return found
            head = await self._rpc.block_number()
            if adapter_id not in self._blocks:
                await self._scan_new(head)
            block = self._blocks.get(adapter_id, self._first_block)
            if self._known(adapter_id, table) is None and self._first_block <= block <= head:
                await self._read(block, block, adapter_id)
            if (found := self._known(adapter_id, table)) is None:
                # A reorganisation was deeper than REORG_BLOCKS: search all blocks for this one.
                await self._read(self._first_block, head, adapter_id)
                found = self._known(adapter_id, table)
        if found is None:
            raise logs_missing(f"adapter {adapter_id} is registered", self._rpc.url)
        return found

    async def with_weights(self, digest: Hash32) -> tuple[AdapterId, ...]:
        """Return the adapters that were registered with these weights, by id.

        One may be of a block that a reorganisation has replaced. Raises ChainUnreachable.
        """
        async with self._scanning:
            await self._scan_new(await self._rpc.block_number())
        return tuple(sorted(self._with.get(digest, ())))

    async def _scan_new(self, head: int) -> None:
        """Scan the blocks that were not scanned yet, and those that may be replaced."""
        await self._read(min(self._next_block, head), head)
        self._next_block = max(self._first_block, head - REORG_BLOCKS + 1)

    async def _read(self, first: int, last: int, adapter_id: AdapterId | None = None) -> None:
        topics: list[bytes | None] = [abi.event_topic(_CONTRACT, "AdapterRegistered")]
        if adapter_id is not None:
            topics.append(adapter_id.to_bytes(32, "big"))
        async for log in scan(self._rpc, [self._registry], first, last, topics):
            decoded = abi.decode_event(_CONTRACT, log.topics, log.data)
            if decoded is not None:
                self._keep(decoded[1], log.block_number)
                if adapter_id is None:
                    # If the scan fails later, the next one continues here.
                    self._next_block = max(self._next_block, log.block_number)

    def _keep(self, event: Mapping[str, Any], block: int) -> None:
        adapter_id = AdapterId(event["adapterId"])
        self._blocks[adapter_id] = block
        self._with.setdefault(Hash32(event["weightsDigest"]), set()).add(adapter_id)
        self._kept[adapter_id] = {**event, "sharesHash": _hash_of(event["shares"])}
        self._kept.move_to_end(adapter_id)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _known(self, adapter_id: AdapterId, table: Hash32) -> Mapping[str, Any] | None:
        known = self._kept.get(adapter_id)
        # After a reorganisation another adapter may have this id: the table's hash shows it.
        if known is None or known["sharesHash"] != table:
            return None
        self._kept.move_to_end(adapter_id)
        return known


def _hash_of(words: Sequence[int]) -> Hash32:
    return shares_hash(shares_from_words(words))
