"""Follow where each account's balance is paid, from the events by which it named an address.

Pure. Source: ``setPayoutAddress`` of docs/contracts.md: a new address takes effect a close delay
after it was named, and until then the one before it stays in force. Invariant: where the time of a
block is not known and decides, nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from viz.domain.ports.transactions import Event
from viz.domain.units import ZERO_ADDRESS, Address


@dataclass(slots=True)
class _Named:
    """One account's payout address in force, and the one that is on its way."""

    now: Address
    following: Address
    effective_at_s: int

    def at(self, time_s: int | None) -> set[Address]:
        """Return the address in force, or both if the time that would decide is not known."""
        if time_s is None:
            return {self.now, self.following}
        return {self.following if time_s >= self.effective_at_s else self.now}


class PayoutAddresses:
    """The payout addresses of all accounts, as the events named them so far."""

    def __init__(self, close_delay_s: int) -> None:
        self._close_delay_s = close_delay_s
        self._named: dict[Address, _Named] = {}

    def name(self, event: Event, time_s: int | None) -> str:
        """Apply a ``PayoutAddressSet`` in a block of that time; return what is wrong with it."""
        account, to = Address(event.args["account"]), Address(event.args["to"])
        effective_at_s = int(event.args["effectiveAt"])
        # What it takes effect at tells the block's time too, if that is not known.
        named_at_s = effective_at_s - self._close_delay_s if time_s is None else time_s
        (before,) = self.of(account, named_at_s)
        self._named[account] = _Named(before, account if to == ZERO_ADDRESS else to, effective_at_s)
        due = named_at_s + self._close_delay_s
        return "" if effective_at_s == due else f"takes effect at {effective_at_s}, not at {due}"

    def of(self, account: Address, time_s: int | None) -> set[Address]:
        """Return the payout address at a time; if the time is not known, all that it may be."""
        named = self._named.get(account)
        return {account} if named is None else named.at(time_s)


def blocks_that_decide(ordered: Iterable[Event]) -> tuple[int, ...]:
    """Return the blocks whose times say where balances were due, in the events' order.

    They are those in which an account named an address, and those of its collections since.
    """
    named, found = set[Address](), dict[int, None]()
    for event in ordered:
        if event.name == "PayoutAddressSet":
            named.add(Address(event.args["account"]))
        elif event.name != "Collected" or event.args["account"] not in named:
            continue
        found[event.block_number] = None
    return tuple(found)
