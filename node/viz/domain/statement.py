"""Derive what one work earned, unit by unit, from the contracts' events alone.

Owns the arithmetic of a work's statement: license fees, its part of each amount that an adapter
earned, and its part of each distribution, with the owner who was paid. Pure: the same events always
give the same statement. A part is a difference of floors of cumulative amounts, as in Settlement
(``viz.domain.shares``), so that the parts earned sum to the parts paid.

Invariant: there is no statement from events that contradict each other or the adapters' rates. So
an endpoint that leaves out or invents an event of an adapter is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from viz.domain.ports.transactions import Event
from viz.domain.shares import split_revenue
from viz.domain.units import BPS, ZERO_ADDRESS, AdapterId, Address, ContentId, Hash32, Units
from viz.errors import ChainUnreachable

FEE: Final = "fee"
EARNED: Final = "earned"
PAID: Final = "paid"


@dataclass(frozen=True, slots=True)
class AdapterRates:
    """An adapter trained on the work: its rates, and the work's share of the royalties."""

    adapter_id: AdapterId
    trainer: Address
    royalty_bps: int
    trainer_bps: int
    share_bps: int


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One event about the work; ``units`` is the work's part of it.

    ``kind`` is ``fee`` (a trainer paid the owner for a grant), ``earned`` (an adapter earned at a
    node: ``gross_units``, of which ``works_units`` for all its works), or ``paid`` (royalties were
    distributed: ``works_units`` to all works, the work's part to ``account``; ``credited`` if the
    transfer failed and the amount joined the account's balance in Settlement). ``royalty_bps`` is
    the rate that was applied: all of it, 10,000, after the adapter's retirement; 0 for royalties
    that were distributed together and were earned at both rates.
    """

    kind: str
    block: int
    log_index: int
    transaction: Hash32
    account: Address
    units: Units
    adapter_id: AdapterId | None = None
    node: Address | None = None
    gross_units: Units = 0
    works_units: Units = 0
    royalty_bps: int = 0
    share_bps: int = 0
    credited: bool = False


@dataclass(slots=True)
class _AdapterSums:
    """The sums of an adapter's events so far."""

    gross_units: Units = 0
    works_units: Units = 0
    distributed_units: Units = 0
    retired: bool = False
    # At which rates the undistributed royalties were earned.
    waiting_bps: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class WorkHistory:
    """All lines of a work up to a block, and what is still undistributed for each adapter."""

    content_id: ContentId
    lines: tuple[StatementLine, ...]
    undistributed_units: Mapping[AdapterId, Units] = field(default_factory=dict)

    def within(self, first: int, last: int) -> tuple[StatementLine, ...]:
        """Return the lines of the blocks from ``first`` to ``last``."""
        return tuple(line for line in self.lines if first <= line.block <= last)

    def waiting_units(self, before: int) -> Units:
        """Return what the work had earned before a block and was not paid."""
        lines = [line for line in self.lines if line.block < before]
        return sum_of_kind(lines, EARNED) - sum_of_kind(lines, PAID)


def sum_of_kind(lines: Iterable[StatementLine], kind: str) -> Units:
    """Return the sum of the work's parts in the lines of one kind."""
    return sum(line.units for line in lines if line.kind == kind)


def part_of(before_units: Units, amount_units: Units, share_bps: int) -> Units:
    """Return a work's part of ``amount_units``, if its adapter's works had ``before_units``."""
    after = before_units + amount_units
    return after * share_bps // BPS - before_units * share_bps // BPS


def work_history(
    content_id: ContentId, adapters: Iterable[AdapterRates], events: Iterable[Event]
) -> WorkHistory:
    """Return all lines of a work, from the events since the contracts' first block, in any order.

    It needs GrantAcquired and Transfer of the work, Earned and Distributed of each adapter, and
    TransferFailed of its owners. Raises ChainUnreachable if they contradict each other.
    """
    rates = {each.adapter_id: each for each in adapters}
    sums = {each: _AdapterSums() for each in rates}
    ordered = sorted(events, key=lambda event: (event.block_number, event.log_index))
    failed = {
        (event.transaction_hash, event.args["account"])
        for event in ordered
        if event.name == "TransferFailed"
    }
    owner, lines = ZERO_ADDRESS, list[StatementLine]()
    for event in ordered:
        if event.name == "Transfer":
            owner = Address(event.args["to"])
        elif event.name == "GrantAcquired":
            lines.append(_fee(event))
        elif event.name in ("Earned", "Distributed"):
            adapter_id = AdapterId(event.args["adapterId"])
            make = _earned if event.name == "Earned" else _paid
            line = make(event, rates[adapter_id], sums[adapter_id], owner)
            credited = line.kind == PAID and (line.transaction, owner) in failed
            lines.append(replace(line, credited=credited))
    left = {each: held.works_units - held.distributed_units for each, held in sums.items()}
    return WorkHistory(content_id, tuple(lines), left)


def require_undistributed(history: WorkHistory, on_chain: Mapping[AdapterId, Units]) -> None:
    """Raise ChainUnreachable if the events do not add up to the chain's undistributed amounts."""
    for adapter_id, units in history.undistributed_units.items():
        if on_chain[adapter_id] != units:
            raise contradiction(
                f"adapter {adapter_id} has {on_chain[adapter_id]} units to distribute, and its "
                f"events add up to {units}"
            )


def _fee(event: Event) -> StatementLine:
    return StatementLine(
        FEE,
        event.block_number,
        event.log_index,
        event.transaction_hash,
        Address(event.args["trainer"]),
        int(event.args["fee"]),
    )


def _earned(event: Event, rates: AdapterRates, held: _AdapterSums, owner: Address) -> StatementLine:
    amount, works = int(event.args["amount"]), int(event.args["toContents"])
    split = split_revenue(
        held.gross_units, amount, royalty_bps=rates.royalty_bps, trainer_bps=rates.trainer_bps
    )
    # After its retirement the works get everything.
    if works not in (split.to_contents_units, amount):
        raise contradiction(
            f"adapter {rates.adapter_id} earned {amount} units in block {event.block_number}, of "
            f"which its rates give the works {split.to_contents_units}, and its event {works}"
        )
    # It is final, so an amount that both rules split alike is told by those before it.
    held.retired = held.retired or works != split.to_contents_units
    applied_bps = BPS if held.retired and works == amount else rates.royalty_bps
    held.waiting_bps.add(applied_bps)
    part = part_of(held.works_units, works, rates.share_bps)
    held.gross_units += amount
    held.works_units += works
    return StatementLine(
        EARNED,
        event.block_number,
        event.log_index,
        event.transaction_hash,
        owner,
        part,
        rates.adapter_id,
        Address(event.args["node"]),
        amount,
        works,
        applied_bps,
        rates.share_bps,
    )


def _paid(event: Event, rates: AdapterRates, held: _AdapterSums, owner: Address) -> StatementLine:
    accrued = int(event.args["accrued"])
    if accrued != held.works_units - held.distributed_units:
        raise contradiction(
            f"adapter {rates.adapter_id} distributed {accrued} units in block "
            f"{event.block_number}, and its works had {held.works_units - held.distributed_units}"
        )
    part = part_of(held.distributed_units, accrued, rates.share_bps)
    held.distributed_units += accrued
    applied = held.waiting_bps or {rates.royalty_bps}
    held.waiting_bps = set()
    return StatementLine(
        PAID,
        event.block_number,
        event.log_index,
        event.transaction_hash,
        owner,
        part,
        rates.adapter_id,
        works_units=accrued,
        royalty_bps=next(iter(applied)) if len(applied) == 1 else 0,
        share_bps=rates.share_bps,
    )


def contradiction(what: str) -> ChainUnreachable:
    """Return the error for an endpoint whose answers cannot all be true."""
    return ChainUnreachable(
        f"the chain's endpoint contradicts itself: {what}. It left out events, or the chain was "
        "reorganised while it was read: try again, or give another --rpc"
    )
