"""Read from the chain's logs what a work earned, and which adapters were trained on it.

Owns the searches for the events that ``viz.domain.statement`` derives a statement from. Invariant:
everything in one result is from one branch of the chain: the last block is checked before and after
the reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from viz.chain import abi
from viz.chain.contracts import Chain
from viz.chain.event_decoding import decode_logs
from viz.chain.log_completeness import (
    logs_missing,
    registered_adapters,
    registered_works,
    require_counted,
)
from viz.chain.rpc import BlockHeader, BlockNotKnown
from viz.chain.scan import scan
from viz.domain.ports.transactions import Event
from viz.domain.shares import shares_from_words
from viz.domain.statement import (
    AdapterRates,
    WorkHistory,
    require_undistributed,
    work_history,
)
from viz.domain.units import AdapterId, Address, ContentId, Hash32
from viz.errors import ChainMismatch, InvalidRequest, LicenseError

# Up to this many adapters are searched one by one; for more, the events of all are read.
_ONE_BY_ONE: Final = 16
_STATES_KEPT: Final = 64


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
        self.first_block = chain.deployment.first_block

    async def read(self, content_id: ContentId, last: BlockHeader) -> WorkRead:
        """Return a work's history up to the block ``last``.

        Raises ChainMismatch if the block was replaced meanwhile, ChainUnreachable if the events
        contradict each other or what the contract has to distribute at that block, ChainError if
        the endpoint lacks logs, LicenseError if there is no such work.
        """
        await self._require_registered(content_id)
        adapters = await self.adapters(content_id, last.number)
        events = await self._events(content_id, [each.adapter_id for each in adapters], last.number)
        history = work_history(content_id, adapters, events)
        # Few endpoints keep older states than these; logs are kept longer.
        if last.number > await self._rpc.block_number() - _STATES_KEPT:
            undistributed = {
                each.adapter_id: await self._chain.settlement.undistributed(
                    each.adapter_id, block=last.number
                )
                for each in adapters
            }
            await self.require_block(last)
            require_undistributed(history, undistributed)
        await self.require_block(last)
        return WorkRead(history, adapters, last)

    async def adapters(self, content_id: ContentId, last: int) -> tuple[AdapterRates, ...]:
        """Return the adapters trained on a work, by id, with the rates of their registration.

        Raises ChainError if the endpoint does not serve the event of every registered adapter.
        """
        found = []
        # Read to the head, because there the count can be asked for, and of old blocks it cannot.
        head = max(last, await self._rpc.block_number())
        events = await self._scan("AdapterRegistry", "AdapterRegistered", (), head)
        count = await self._chain.adapters.count(block=head)
        require_counted("adapter", registered_adapters(events), count, self._rpc.url)
        for event in events:
            if event.block_number > last:
                continue
            shares = dict(shares_from_words(event.args["shares"]))
            if content_id in shares:
                found.append(
                    AdapterRates(
                        AdapterId(event.args["adapterId"]),
                        Address(event.args["trainer"]),
                        event.args["royaltyBps"],
                        event.args["trainerBps"],
                        shares[content_id],
                    )
                )
        return tuple(sorted(found, key=lambda each: each.adapter_id))

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

    async def _require_registered(self, content_id: ContentId) -> None:
        head, work = await self._rpc.block_number(), content_id.to_bytes(32, "big")
        events = await self._scan("ContentRegistry", "Transfer", (None, None, work), head)
        if content_id in registered_works(events):
            return
        if await self._chain.contents.content(content_id, block=head) is None:
            raise LicenseError(f"there is no work {content_id} on this chain: check the id")
        raise logs_missing(f"work {content_id} is registered", self._rpc.url)

    async def _events(
        self, content_id: ContentId, adapters: Sequence[AdapterId], last: int
    ) -> list[Event]:
        work = content_id.to_bytes(32, "big")
        found = await self._scan("ContentRegistry", "Transfer", (None, None, work), last)
        found += await self._scan("ContentRegistry", "GrantAcquired", (work,), last)
        for name in ("Earned", "Distributed"):
            if len(adapters) <= _ONE_BY_ONE:
                for each in adapters:
                    topics = (each.to_bytes(32, "big"),)
                    found += await self._scan("Settlement", name, topics, last)
            else:
                every = await self._scan("Settlement", name, (), last)
                found += [event for event in every if event.args["adapterId"] in set(adapters)]
        owners = {Address(event.args["to"]) for event in found if event.name == "Transfer"}
        for owner in sorted(owners):
            topics = (bytes.fromhex(owner[2:]).rjust(32, b"\0"),)
            found += await self._scan("Settlement", "TransferFailed", topics, last)
        return found

    async def _scan(
        self, contract: str, event: str, topics: Sequence[bytes | None], last: int
    ) -> list[Event]:
        """Return all events of one type up to a block; ``topics`` are those after the first."""
        where = self._chain.deployment
        address = {
            "ContentRegistry": where.content_registry,
            "AdapterRegistry": where.adapter_registry,
            "Settlement": where.settlement,
        }[contract]
        wanted = [abi.event_topic(contract, event), *topics]
        logs = [log async for log in scan(self._rpc, [address], self.first_block, last, wanted)]
        return list(decode_logs(where, logs))
