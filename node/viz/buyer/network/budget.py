"""Limit what a buyer spends over all nodes: by day, by deposit, by a list of nodes.

Owns the day's sum and what running requests may still add to it. Invariant: over all requests of
this process, what was spent on a day and what is reserved never exceed the day's limit; what other
processes spent counts as soon as they have recorded it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from viz.buyer.network.record import NetworkFile, day_of
from viz.domain.display import amount
from viz.domain.ports.chain import Deployment
from viz.domain.ports.clock import Clock
from viz.domain.units import Address, Units
from viz.errors import BooksMismatch, BudgetSpent, StoreError

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
    """The part of the day's budget that one request holds."""

    units: Units


class DayBudget:
    """The daily budget of one buyer."""

    def __init__(
        self, budget: Budget, file: NetworkFile, clock: Clock, deployment: Deployment
    ) -> None:
        self._budget, self._file, self._clock = budget, file, clock
        self._deployment = deployment
        self._reserved: set[Reservation] = set()
        self._unsaved: dict[str, Units] = {}

    @property
    def spent_units(self) -> Units:
        """What was spent today, by all processes; raise BooksMismatch."""
        day = day_of(self._clock.now_s())
        return self._file.read().days.get(day, 0) + self._unsaved.get(day, 0)

    @property
    def remaining_units(self) -> Units | None:
        """What may still be spent today and is not reserved; None without a limit."""
        if self._budget.day_units is None:
            return None
        reserved = sum(each.units for each in self._reserved)
        return max(0, self._budget.day_units - self.spent_units - reserved)

    @contextmanager
    def reserve(self, units: Units) -> Iterator[Reservation]:
        """Reserve the most that a request may cost; raise BudgetSpent if the day has less left."""
        remaining_units = self.remaining_units
        if remaining_units is not None and units > remaining_units:
            raise BudgetSpent(
                f"this answer may cost {amount(units, self._deployment)}, and "
                f"{amount(remaining_units, self._deployment)} are left of what may be spent "
                "today: ask for fewer tokens, raise --max-per-day, or wait until midnight UTC"
            )
        reservation = Reservation(units)
        self._reserved.add(reservation)
        try:
            yield reservation
        finally:
            self._reserved.discard(reservation)

    def spend(self, reservation: Reservation, units: Units) -> None:
        """Record what a part of a request cost. If the disk fails, this process still counts it."""
        reservation.units = max(0, reservation.units - units)
        if not units:
            return
        day = day_of(self._clock.now_s())
        try:
            self._file.change(lambda record: record.spending(day, units))
        except (StoreError, BooksMismatch) as error:
            self._unsaved[day] = self._unsaved.get(day, 0) + units
            _log.warning("today's spending could not be recorded", reason=error.detail)
