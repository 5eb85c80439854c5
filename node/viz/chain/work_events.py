"""Read from the chain's logs what a work earned, and which adapters were trained on it.

Owns the searches for the events that ``viz.domain.statement`` derives a statement from. Invariant:
everything in one result is from one branch of the chain: the last block is checked before and after
the reading.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from viz.chain import abi
from viz.chain.contracts import Chain
from viz.chain.event_decoding import decode_logs
from viz.chain.grant_logs import GrantLogs
from viz.chain.log_completeness import (
    require_owners,
    require_same_logs,
)
from viz.chain.rpc import BlockHeader, BlockNotKnown
from viz.chain.token_transfers import word_of
from viz.domain.ports.transactions import Event
from viz.domain.statement import (
    AdapterRates,
    WorkHistory,
    require_undistributed,
    work_history,
)
from viz.domain.units import AdapterId, Address, ContentId, Hash32
from viz.errors import ChainMismatch, InvalidRequest

# Up to this many adapters are searched one by one; for more, the events of all are read.
_ONE_BY_ONE: Final = 16
_MOST_RECEIPTS: Final = 64


@dataclass(frozen=True, slots=True)
class WorkRead:
    """A work's history up to a block, and the adapters that were trained on it."""

    history: WorkHistory
    adapters: tuple[AdapterRates, ...]
    last: BlockHeader


class WorkEvents:
    """Reads the events of one work from the chain's history."""

    def __init__(self, chain: Chain) -> None:
        self._chain, self._rpc = chain, chain.rpc
        self._logs = GrantLogs(chain.rpc, chain.deployment, chain.contents, chain.adapters)
        self.first_block = chain.deployment.first_block

    async def read(
        self, content_id: ContentId, last: BlockHeader, trainers: Collection[Address] = ()
    ) -> WorkRead:
        """Return a work's history up to the block ``last``.

        All is read up to the head and compared with the contracts' views there, because few
        endpoints tell the views of old blocks. ``trainers`` are looked up too: whoever is said to
        have acquired a grant. Raises ChainMismatch if the block was replaced meanwhile,
        ChainUnreachable if the events contradict each other or a view, ChainError if the endpoint
        lacks logs, LicenseError if there is no such work.
        """
        head = max(last.number, await self._rpc.block_number())
        await self._logs.require_registered(content_id)
        registered = await self._logs.registered(content_id, head)
        rates = tuple(each for each, _ in registered)
        events = await self._events(content_id, [each.adapter_id for each in rates], head)
        owner = (await self._chain.contents.owners([content_id], block=head))[0]
        require_owners(events, {content_id: owner}, self._rpc.url)
        await self._logs.require_grants(content_id, events, registered, trainers, head)
        undistributed = {
            each.adapter_id: await self._chain.settlement.undistributed(each.adapter_id, block=head)
            for each in rates
        }
        await self.require_block(last)
        require_undistributed(work_history(content_id, rates, events), undistributed)
        adapters = tuple(each for each, event in registered if event.block_number <= last.number)
        before = [event for event in events if event.block_number <= last.number]
        return WorkRead(work_history(content_id, adapters, before), adapters, last)

    async def adapters_of(self, content_id: ContentId) -> tuple[AdapterId, ...]:
        """Return the adapters that hold a work, by id.

        Raises LicenseError if there is no such work, ChainError if the endpoint lacks logs.
        """
        await self._logs.require_registered(content_id)
        head = await self._rpc.block_number()
        return tuple(each.adapter_id for each, _ in await self._logs.registered(content_id, head))

    async def require_served(self, content_id: ContentId, transactions: Iterable[Hash32]) -> None:
        """Raise ChainError if one of these transactions has a grant that the logs lack."""
        head = await self._rpc.block_number()
        served = await self._logs.grants(content_id, head)
        for name in list(dict.fromkeys(transactions))[:_MOST_RECEIPTS]:
            receipt = await self._rpc.receipt(name)
            logs = receipt.logs if receipt and receipt.block_number <= head else ()
            grants = [
                event
                for event in decode_logs(self._chain.deployment, logs)
                if event.name == "GrantAcquired" and event.args["contentId"] == content_id
            ]
            require_same_logs(served, grants, self._rpc.url)

    async def times(self, blocks: Sequence[int]) -> Mapping[int, int]:
        """Return the timestamps of blocks."""
        return {each: (await self._rpc.block(each)).time_s for each in sorted(set(blocks))}

    async def vouchers(self, claims: Sequence[Hash32]) -> Mapping[Hash32, int]:
        """Return how many vouchers each of these transactions claimed, over all adapters."""
        topic, found = abi.event_topic("Settlement", "Claimed"), dict[Hash32, int]()
        for name in dict.fromkeys(claims):
            receipt = await self._rpc.receipt(name)
            logs = receipt.logs if receipt else ()
            settlement = self._chain.deployment.settlement
            found[name] = sum(
                log.address == settlement and bytes(log.topics[0]) == topic for log in logs
            )
        return found

    async def require_block(self, block: BlockHeader) -> None:
        """Raise ChainMismatch if a block is no longer on the chain."""
        try:
            same = (await self._rpc.block(block.number)).hash == block.hash
        except BlockNotKnown:
            same = False
        if not same:
            raise ChainMismatch(
                f"block {block.number} was 0x{block.hash.hex()} and is another one now: the chain "
                "was reorganised. Make the statement again, up to an older block (--to)"
            )

    async def block_at(self, time_s: int) -> int:
        """Return the first block at ``time_s`` or later; head + 1 if there is none."""
        low, high = self.first_block, (await self._rpc.block()).number
        if time_s > (await self._rpc.block(high)).time_s:
            return high + 1
        while low < high:
            middle = (low + high) // 2
            if (await self._rpc.block(middle)).time_s < time_s:
                low = middle + 1
            else:
                high = middle
        return low

    async def header(self, number: int) -> BlockHeader:
        """Return a block's header; raise InvalidRequest if the chain does not have the block."""
        try:
            return await self._rpc.block(number)
        except BlockNotKnown as error:
            raise InvalidRequest(
                f"the chain has no block {number} yet: name an older one"
            ) from error

    async def _events(
        self, content_id: ContentId, adapters: Sequence[AdapterId], last: int
    ) -> list[Event]:
        work = content_id.to_bytes(32, "big")
        found = await self._logs.scan("ContentRegistry", "Transfer", (None, None, work), last)
        found += await self._logs.grants(content_id, last)
        for name in ("Earned", "Distributed"):
            if len(adapters) <= _ONE_BY_ONE:
                for each in adapters:
                    topics = (each.to_bytes(32, "big"),)
                    found += await self._logs.scan("Settlement", name, topics, last)
            else:
                every = await self._logs.scan("Settlement", name, (), last)
                found += [event for event in every if event.args["adapterId"] in set(adapters)]
        owners = {Address(event.args["to"]) for event in found if event.name == "Transfer"}
        for owner in sorted(owners):
            found += await self._logs.scan("Settlement", "TransferFailed", (word_of(owner),), last)
        return found
