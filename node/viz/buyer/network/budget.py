"""Limit what a buyer spends over all nodes: by day, by deposit, by a list of nodes.

Owns the day's sum and what running requests may still add to it. Invariants: what was spent on a
day and what is reserved, by all processes of a data folder, is below a process's limit by day
whenever that process reserves more; what a process that was killed had reserved counts as spent, as
far as it is not known that less can be taken (``viz.buyer.ledger.held``).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from viz.buyer.ledger.held import shrink_all_held
from viz.buyer.ledger.network_record import NetworkFile, NetworkRecord, RecordChange, day_of
from viz.domain.display import amount
from viz.domain.ports.chain import Deployment
from viz.domain.ports.clock import Clock
from viz.domain.units import Address, Units
from viz.errors import BooksMismatch, BudgetSpent, StoreError
from viz.protocol.wire import Json

# A request reserves so many times the dearest estimate, or the most that it can cost if that is
# less: the estimate of the prompt may be low, and each further node is paid for the prompt again.
MARGIN: Final = 3
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Budget:
    """The buyer's limits. ``day_units`` None: no limit by day; ``nodes`` empty: any node.

    ``deposit_units`` is the most that is deposited at one node, once.
    """

    deposit_units: Units
    day_units: Units | None = None
    nodes: frozenset[Address] = frozenset()

    def allows(self, node: Address) -> bool:
        """Return whether the buyer's list of nodes permits this node."""
        return not self.nodes or node in self.nodes


@dataclass(slots=True, eq=False)
class Reservation:
    """The part of the day's budget that one request holds.

    ``units`` is the most that it may cost. The record has ``held_units`` of it, under ``name``.
    """

    units: Units
    held_units: Units
    name: str
    day: str


class DayBudget:
    """The daily budget of one buyer."""

    def __init__(
        self, budget: Budget, file: NetworkFile, clock: Clock, deployment: Deployment
    ) -> None:
        self._budget, self._file, self._clock = budget, file, clock
        self.deployment = deployment
        self._reserved: set[Reservation] = set()
        self._unsaved: dict[str, Units] = {}
        # What the record should hold under a name, and could not be told.
        self._unheld: dict[str, tuple[str, Units]] = {}

    def close(self) -> None:
        """Write what could not be written before; call it when no more is asked. Blocks."""
        if self._unsaved or self._unheld:
            self._changed(lambda record: record)

    @property
    def spent_units(self) -> Units:
        """What was spent today, by all processes, and what others hold; raise BooksMismatch."""
        return self._spent_units(self._file.read(), day_of(self._clock.now_s()))

    @property
    def left_units(self) -> Units | None:
        """What a new request may spend today; None if there is no limit. Raises BooksMismatch."""
        if self._budget.day_units is None:
            return None
        return max(0, self._budget.day_units - self.spent_units - self._running_units())

    def report(self) -> Json:
        """Return what was spent today, the limit, and what is left of it; raise BooksMismatch."""
        limit_units, left_units = self._budget.day_units, self.left_units
        return {
            "today": str(self.spent_units),
            "maxPerDay": None if limit_units is None else str(limit_units),
            "leftToday": None if left_units is None else str(left_units),
        }

    def _running_units(self) -> Units:
        return sum(each.units for each in tuple(self._reserved))

    def _spent_units(self, record: NetworkRecord, day: str) -> Units:
        own = {*(each.name for each in tuple(self._reserved)), *tuple(self._unheld)}
        # Those of the day before too: an answer that began then is recorded on this day.
        held = record.held_on(day).items()
        others = sum(units for name, (_, units) in held if name not in own)
        return record.days.get(day, 0) + self._unsaved.get(day, 0) + others

    def reserve_for(
        self, first_units: Units, dearest_units: Units, most_units: Units, cap_units: Units
    ) -> AbstractContextManager[Reservation]:
        """Reserve for a request that is estimated at these costs; raise BudgetSpent.

        ``first_units`` is the cost at the node that is asked first, ``dearest_units`` at the
        dearest that may be asked, ``most_units`` what it can cost at all of them together, and
        ``cap_units`` the most that an answer may cost. No more is held than it can cost.
        """
        need_units = min(cap_units, first_units)
        likely_units = max(need_units, min(cap_units, MARGIN * dearest_units, most_units))
        return self.reserve(need_units, likely_units, cap_units)

    @contextmanager
    def reserve(
        self, least_units: Units, likely_units: Units, cap_units: Units
    ) -> Iterator[Reservation]:
        """Reserve what a request may cost: ``likely_units``, or less if the day has less left.

        Without a limit by day it may cost ``cap_units``. Raises BudgetSpent if the day has less
        than ``least_units`` left.
        """
        day, name = day_of(self._clock.now_s()), secrets.token_hex(8)
        reservation = Reservation(cap_units, likely_units, name, day)

        def hold(record: NetworkRecord) -> NetworkRecord:
            limit_units = self._budget.day_units
            if limit_units is not None:
                held = self._running_units()
                left_units = max(0, limit_units - self._spent_units(record, day) - held)
                if least_units > left_units:
                    spent_units = record.days.get(day, 0) + self._unsaved.get(day, 0)
                    held_units = held + self._spent_units(record, day) - spent_units
                    raise self._refusal(least_units, left_units, held_units)
                reservation.units = reservation.held_units = min(likely_units, left_units)
            return record.holding(name, day, reservation.held_units)

        try:
            kept = self._changed(hold)
        except BudgetSpent:
            own = {each.name for each in tuple(self._reserved)}
            if not set(self._file.read().held) - own:
                raise
            # What processes that were killed hold may be far above what can be taken.
            shrink_all_held(self._file.home, self.deployment)
            kept = self._changed(hold)
        if not kept and self._budget.day_units is not None:
            hold(self._file.read())
        self._reserved.add(reservation)
        try:
            yield reservation
        finally:
            self._reserved.discard(reservation)
            if not self._changed(lambda record: record.holding(name, day, 0)):
                self._unheld[name] = day, 0

    def spend(self, reservation: Reservation, units: Units) -> None:
        """Record what a part of a request cost. If the disk fails, this process still counts it."""
        reservation.units = max(0, reservation.units - units)
        reservation.held_units = max(0, reservation.held_units - units)
        if not units:
            return
        day, held = day_of(self._clock.now_s()), reservation
        if not self._changed(
            lambda record: record.spending(day, units).holding(held.name, held.day, held.held_units)
        ):
            self._unsaved[day] = self._unsaved.get(day, 0) + units
            self._unheld[held.name] = held.day, held.held_units

    def _changed(self, change: RecordChange) -> bool:
        """Change the record, and write what could not be before; return whether that worked."""

        def whole(record: NetworkRecord) -> NetworkRecord:
            for name, (day, units) in self._unheld.items():
                if name in record.held:
                    record = record.holding(name, day, units)
            after = change(record)
            for day, units in self._unsaved.items():
                after = after.spending(day, units)
            return after

        try:
            self._file.change(whole)
            self._unsaved.clear()
            self._unheld.clear()
        except (StoreError, BooksMismatch) as error:
            _log.warning("today's spending could not be recorded", reason=error.detail)
            return False
        return True

    def _refusal(self, least_units: Units, left_units: Units, held_units: Units) -> BudgetSpent:
        least, left, held = (
            amount(each, self.deployment) for each in (least_units, left_units, held_units)
        )
        said = f"this answer may cost {least}, and {left} are left of what may be spent today"
        if not held_units:
            return BudgetSpent(
                f"{said}: ask for fewer tokens, raise --max-per-day, or wait until midnight UTC"
            )
        return BudgetSpent(
            f"{said}. {held} are held by answers under way, which give back what they do not cost "
            "when they end, or by answers whose process was killed, which count until the end of "
            "the next day (UTC): wait for an answer to end, ask for fewer tokens, or raise "
            "--max-per-day"
        )
