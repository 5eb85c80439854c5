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
)
from viz.chain.rpc import BlockHeader, BlockNotKnown
from viz.chain.scan import scan
from viz.domain.eip712 import keccak
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.transactions import Event
from viz.domain.settlement_audit import RebuiltBooks, Transfers, rebuild
from viz.domain.units import Address, Hash32, Units, parse_address
from viz.domain.verdict import verdict_of
from viz.errors import ChainError, ChainMismatch

_TRANSFER: Final = keccak(b"Transfer(address,address,uint256)")


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

        Raises ChainError if the endpoint lacks the registration of a work or an adapter.
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
            for each in sorted(events, key=lambda each: (each.block_number, each.log_index))
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

        Raises ChainMismatch if the block was replaced meanwhile, ChainUnreachable, and ChainError,
        naming the endpoint, if it lacks a registration or a claim.
        """
        events = await self.events(last.number)
        held = await self._chain.token.balance(self._where.settlement, block=last.number)
        transfers, unread = await self._all_transfers(last.number, held)
        books = rebuild(events, transfers)
        differences = await self._compared(books, last.number)
        if held < books.must_hold_units():
            differences.append(
                f"Settlement holds {held} units, but owes {books.must_hold_units()}: "
                f"{books.must_hold_units() - held} are missing"
            )
        await self._require(last)
        return SettlementRead(last, books, held, tuple(differences), unread)

    async def _all_transfers(
        self, last: int, held_units: Units
    ) -> tuple[Transfers | None, tuple[str, ...]]:
        """Return the transfers out of Settlement, if those in and out give what it holds.

        If not, the endpoint lacks some of them, and payouts cannot be followed: that is missing.
        """
        out = await self.transfers(last)
        to = bytes.fromhex(self._where.settlement[2:]).rjust(32, b"\0")
        came = 0
        for log in await self._logs(self._where.token, (_TRANSFER, None, to), last):
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
            view, _ = await settlement.balance(account, block=block)
            differ(f"balance of {account}", view, units)
        return found

    async def transfers(self, last: int) -> Mapping[Hash32, Mapping[Address, Units]] | None:
        """Return the token's transfers out of Settlement; None if the token has no events."""
        sender = bytes.fromhex(self._where.settlement[2:]).rjust(32, b"\0")
        logs = await self._logs(self._where.token, (_TRANSFER, sender), last)
        if not logs and not await self._logs(self._where.token, (_TRANSFER,), last):
            return None
        found: dict[Hash32, dict[Address, Units]] = {}
        for log in logs:
            if len(log.topics) != 3 or len(log.data) != 32:
                return None
            to = parse_address("0x" + bytes(log.topics[2])[12:].hex())
            moved = found.setdefault(log.transaction_hash, {})
            moved[to] = moved.get(to, 0) + int.from_bytes(log.data, "big")
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
