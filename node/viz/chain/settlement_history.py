"""Read all events that move money in Settlement, and compare rebuilt balances with its views.

Owns the searches for the events that ``viz.domain.settlement_audit`` rebuilds balances from, and
the comparison. Invariants: everything is read at one block, which is checked again at the end;
nothing is derived from logs that lack a registration which the contracts count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from viz.chain import abi
from viz.chain.contracts import Chain
from viz.chain.event_decoding import decode_logs
from viz.chain.log_completeness import (
    logs_missing,
    registered_adapters,
    registered_works,
    require_counted,
    require_owners,
    require_same_logs,
)
from viz.chain.rpc import BlockHeader, BlockNotKnown
from viz.chain.scan import scan
from viz.chain.token_transfers import TRANSFER, transfers_from, word_of
from viz.domain.payout_addresses import blocks_that_decide
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.transactions import Event
from viz.domain.settlement_audit import RebuiltBooks, Transfers, in_order, rebuild
from viz.domain.statement import contradiction
from viz.domain.units import Address, ContentId, Hash32, Units, hex_of
from viz.domain.verdict import verdict_of
from viz.errors import ChainError, ChainMismatch

_OWNERS_AT_ONCE: Final = 200
# So many transactions' receipts are read before anything is said against the contract.
_MOST_RECEIPTS: Final = 1_000
# So many blocks' times are read for the payout addresses; what a later one decides is missing.
_MOST_TIMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class SettlementRead:
    """The balances rebuilt from events, and where the contract's own views differ."""

    last: BlockHeader
    books: RebuiltBooks
    held_units: Units
    differences: tuple[str, ...]
    unread: tuple[str, ...] = ()

    def findings(self) -> tuple[str, ...]:
        return (*self.books.findings, *self.differences)

    def missing(self) -> tuple[str, ...]:
        """Return what could not be checked."""
        return (*self.unread, *self.books.missing)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; amounts are base units."""
        books, least = self.books, self.books.must_hold_units()
        return {
            "verdict": verdict_of(self.findings(), self.missing(), checked=True),
            "toBlock": self.last.number,
            "channels": len(books.channels),
            "adapters": len(books.adapters),
            "deposits": str(sum(each.deposit_units for each in books.channels.values())),
            "undistributed": str(sum(map(books.undistributed, books.adapters))),
            "balances": str(sum(books.balances.values())),
            "held": str(self.held_units),
            "beyond": str(self.held_units - least),
            "findings": list(self.findings()),
            "missing": list(self.missing()),
        }


class SettlementHistory:
    """Reads one deployment's money from the chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain, self._rpc, self._where = chain, chain.rpc, chain.deployment

    async def events(self, last: int) -> list[Event]:
        """Return all events of Settlement, works' transfers and adapters' registrations.

        Raises ChainError if the endpoint lacks the registration of a work or an adapter, or shows
        another owner of a work than the contract.
        """
        where = self._where
        found = await self._logs(where.settlement, (), last)
        for contract, address, name in (
            ("ContentRegistry", where.content_registry, "Transfer"),
            ("AdapterRegistry", where.adapter_registry, "AdapterRegistered"),
        ):
            found += await self._logs(address, (abi.event_topic(contract, name),), last)
        events = list(decode_logs(where, found))
        works = await self._chain.contents.count(block=last)
        require_counted("work", registered_works(events), works, self._rpc.url)
        ids, owners = [ContentId(each) for each in range(1, works + 1)], list[Address]()
        for start in range(0, works, _OWNERS_AT_ONCE):
            some = ids[start : start + _OWNERS_AT_ONCE]
            owners += await self._chain.contents.owners(some, block=last)
        require_owners(events, dict(zip(ids, owners, strict=True)), self._rpc.url)
        adapters = await self._chain.adapters.count(block=last)
        require_counted("adapter", registered_adapters(events), adapters, self._rpc.url)
        return events

    async def require_settled(
        self, events: Sequence[Event], channels: Collection[Hash32], block: int
    ) -> None:
        """Compare the events of these channels with the contract's view of them at a block.

        Raises ChainError, naming the endpoint, if it lacks a claim that the view counts.
        """
        settled = {
            Hash32(each.args["channelId"]): int(each.args["settled"])
            for each in in_order(events)
            if each.name == "Claimed"
        }
        for each in events:
            if each.name != "ChannelOpened" or each.args["channelId"] not in channels:
                continue
            channel = Hash32(each.args["channelId"])
            signer, node = Address(each.args["signer"]), Address(each.args["node"])
            view = await self._chain.settlement.channel(signer, node, block=block)
            units = view.settled_units if view else 0
            if view is not None and units != settled.get(channel, 0):
                raise self._claim_missing(view)

    def _claim_missing(self, seen: ChannelState) -> ChainError:
        what = f"the channel of {seen.signer} at {seen.node}"
        return logs_missing(f"{seen.settled_units} units of {what} are settled", self._rpc.url)

    async def read(self, last: BlockHeader) -> SettlementRead:
        """Rebuild every balance at a block and compare each with the contract's view.

        Raises ChainMismatch if the block was replaced meanwhile. Raises ChainUnreachable or
        ChainError, naming the endpoint, if it lacks logs: where its logs and the views disagree,
        the contract is accused only if the token's transfers are all there, and so is each log of
        the transactions that they are in.
        """
        events = await self.events(last.number)
        held = await self._chain.token.balance(self._where.settlement, block=last.number)
        transfers, unread = await self._all_transfers(last.number, held)
        books = rebuild(
            events,
            transfers,
            times=await self.times(events),
            close_delay_s=await self._chain.settlement.close_delay_s(),
        )
        differences = await self._compared(books, last.number)
        if held < books.must_hold_units():
            differences.append(
                f"Settlement holds {held} units, but owes {books.must_hold_units()}: "
                f"{books.must_hold_units() - held} are missing"
            )
        await self._require(last)
        if wrong := [*books.findings, *differences]:
            if unread:
                raise contradiction(
                    f"{wrong[0]}, and the token's transfers that {self._rpc.url} serves do not "
                    "give what Settlement holds either"
                )
            names = {*(event.transaction_hash for event in events), *(transfers or {})}
            await self._require_whole(events, names, " ".join(wrong))
        return SettlementRead(last, books, held, tuple(differences), unread)

    async def _require_whole(
        self, events: Sequence[Event], transactions: Collection[Hash32], wrong: str
    ) -> None:
        """Raise ChainError if a receipt has a log of Settlement that the endpoint left out.

        Those that are named in ``wrong`` are read first.
        """
        served: dict[Hash32, list[Event]] = {}
        for event in events:
            served.setdefault(event.transaction_hash, []).append(event)
        ordered = sorted(transactions, key=lambda each: (hex_of(each) not in wrong, each))
        for name in ordered[:_MOST_RECEIPTS]:
            receipt = await self._rpc.receipt(name)
            logs = [
                log
                for log in (receipt.logs if receipt else ())
                if log.address == self._where.settlement
            ]
            told = decode_logs(self._where, logs)
            require_same_logs(served.get(name, ()), told, self._rpc.url)

    async def _all_transfers(
        self, last: int, held_units: Units
    ) -> tuple[Transfers | None, tuple[str, ...]]:
        """Return the transfers out of Settlement, if those in and out give what it holds.

        If not, the endpoint lacks some of them, and payouts cannot be followed: that is missing.
        """
        out = await self.transfers(last)
        to, came = word_of(self._where.settlement), 0
        for log in await self._logs(self._where.token, (TRANSFER, None, to), last):
            came += int.from_bytes(log.data, "big")
        left = came - sum(units for moved in (out or {}).values() for units in moved.values())
        if out is not None and left == held_units:
            return out, ()
        if out is None and not held_units and not came:
            return None, ()
        told = (
            f"transfers of the token: those that {self._rpc.url} serves leave {left} units in "
            f"Settlement, and it holds {held_units}. Use an --rpc that keeps the logs since the "
            "deployment"
        )
        return None, (told,)

    async def _compared(self, books: RebuiltBooks, block: int) -> list[str]:
        settlement, found = self._chain.settlement, list[str]()

        def differ(what: str, view: object, events: object) -> None:
            if view != events:
                found.append(f"{what}: the contract says {view}, but its events give {events}")

        for channel in books.channels.values():
            seen = await settlement.channel(channel.signer, channel.node, block=block)
            what = f"channel of {channel.signer} at {channel.node}"
            if seen is None:
                found.append(f"{what}: the contract has none, but its events opened one")
                continue
            if seen.settled_units > channel.settled_units:
                raise self._claim_missing(seen)
            differ(f"deposit of the {what}", seen.deposit_units, channel.deposit_units)
            differ(f"settled total of the {what}", seen.settled_units, channel.settled_units)
            differ(f"payer of the {what}", seen.payer, channel.payer)
        for adapter_id in books.adapters:
            waits = await settlement.undistributed(adapter_id, block=block)
            differ(
                f"undistributed royalties of adapter {adapter_id}",
                waits,
                books.undistributed(adapter_id),
            )
        for account, units in sorted(books.balances.items()):
            view, to = await settlement.balance(account, block=block)
            differ(f"balance of {account}", view, units)
            if to not in books.payouts.of(account, None):
                raise logs_missing(f"the balance of {account} goes to {to}", self._rpc.url)
        return found

    async def times(self, events: Sequence[Event]) -> Mapping[int, int]:
        """Return the timestamps of the blocks that say where balances were due."""
        blocks = blocks_that_decide(in_order(events))[:_MOST_TIMES]
        return {each: (await self._rpc.block(each)).time_s for each in blocks}

    async def transfers(self, last: int) -> Mapping[Hash32, Mapping[Address, Units]] | None:
        """Return the token's transfers out of Settlement; None if the token has no events."""
        found = await transfers_from(self._rpc, self._where, self._where.settlement, last)
        if not found and not await self._logs(self._where.token, (TRANSFER,), last):
            return None
        return found

    async def _logs(self, address: Address, topics: Sequence[bytes | None], last: int) -> list[Any]:
        first = self._where.first_block
        return [log async for log in scan(self._rpc, [address], first, last, topics)]

    async def _require(self, block: BlockHeader) -> None:
        try:
            same = (await self._rpc.block(block.number)).hash == block.hash
        except BlockNotKnown:
            same = False
        if not same:
            raise ChainMismatch(f"block {block.number} was replaced during the audit: run it again")
