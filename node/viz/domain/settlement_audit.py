"""Rebuild every balance of Settlement from the contracts' events, and follow each payout.

Pure: the same events always give the same balances and findings. A finding is a sentence about an
event that contradicts earlier events or the rules of docs/contracts.md: then the contract, or the
source of the events, is wrong. What cannot be checked is missing, and accuses nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from viz.domain.display import counted
from viz.domain.payout_addresses import PayoutAddresses
from viz.domain.ports.transactions import Event
from viz.domain.shares import (
    Share,
    distribute,
    shares_from_words,
    split_base_model,
    split_revenue,
)
from viz.domain.units import (
    BASE_MODEL,
    ZERO_ADDRESS,
    AdapterId,
    Address,
    ContentId,
    Hash32,
    Units,
    hex_of,
)

Transfers = Mapping[Hash32, Mapping[Address, Units]]
"""What the token moved out of Settlement, by transaction and recipient."""


@dataclass(slots=True)
class RebuiltChannel:
    """A channel's amounts, summed from its events."""

    signer: Address
    node: Address
    payer: Address
    deposit_units: Units = 0
    settled_units: Units = 0


@dataclass(slots=True)
class RebuiltAdapter:
    """An adapter's registration, and the sums of its events."""

    trainer: Address
    royalty_bps: int
    trainer_bps: int
    shares: tuple[Share, ...]
    gross_units: Units = 0
    works_units: Units = 0
    distributed_units: Units = 0


@dataclass(slots=True)
class RebuiltBooks:
    """All rebuilt balances, the faults found in the events, and what could not be checked."""

    channels: dict[Hash32, RebuiltChannel] = field(default_factory=dict)
    adapters: dict[AdapterId, RebuiltAdapter] = field(default_factory=dict)
    balances: dict[Address, Units] = field(default_factory=dict)
    owners: dict[ContentId, Address] = field(default_factory=dict)
    payouts: PayoutAddresses = field(default_factory=lambda: PayoutAddresses(0))
    findings: list[str] = field(default_factory=list)
    unfollowed: int = 0
    """How many transactions paid out, and no transfer could be compared."""
    undated: int = 0
    """How many collections may have gone to either of two addresses, by a time not read."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What could not be checked."""
        found = []
        if self.unfollowed:
            paid = counted(self.unfollowed, "transaction")
            found.append(f"payouts of {paid}, which were not followed")
        if self.undated:
            sent = counted(self.undated, "collection")
            found.append(f"the payout address of {sent}, whose block's time was not read")
        return tuple(found)

    def undistributed(self, adapter_id: AdapterId) -> Units:
        """Return what an adapter's works have earned and was not distributed."""
        adapter = self.adapters[adapter_id]
        return adapter.works_units - adapter.distributed_units

    def must_hold_units(self) -> Units:
        """Return what Settlement must hold: deposits, undistributed royalties, balances."""
        return (
            sum(each.deposit_units for each in self.channels.values())
            + sum(map(self.undistributed, self.adapters))
            + sum(self.balances.values())
        )


def in_order(events: Iterable[Event]) -> list[Event]:
    """Return events in the chain's order."""
    return sorted(events, key=lambda event: (event.block_number, event.log_index))


def rebuild(
    events: Iterable[Event],
    transfers: Transfers | None,
    *,
    times: Mapping[int, int],
    close_delay_s: int,
) -> RebuiltBooks:
    """Return the balances after these events of the three contracts, in any order.

    ``transfers`` are the token's transfers out of Settlement; without them payouts cannot be
    checked, and each that there was is missing. ``times`` are the timestamps of the blocks that
    ``payout_addresses.blocks_that_decide`` names; a collection that one would decide is missing
    without it. ``close_delay_s`` is the contract's CLOSE_DELAY.
    """
    books = RebuiltBooks(payouts=PayoutAddresses(close_delay_s))
    ordered = in_order(events)
    by_transaction: dict[Hash32, list[Event]] = {}
    for event in ordered:
        by_transaction.setdefault(event.transaction_hash, []).append(event)
    for transaction, together in by_transaction.items():
        _transaction(books, transaction, together, transfers, times)
    return books


def _transaction(
    books: RebuiltBooks,
    transaction: Hash32,
    together: list[Event],
    transfers: Transfers | None,
    times: Mapping[int, int],
) -> None:
    claimed = earned = 0
    expected: dict[Address, Units] = {}

    def pay(account: Address, units: Units) -> None:
        if units:
            expected[account] = expected.get(account, 0) + units

    # The contract tells of the transfers that failed right before the distribution that sent them.
    failed: list[Event] = []
    for event in together:
        args = event.args
        if event.name == "Claimed":
            claimed += _claim(books, event)
        elif event.name == "Earned":
            earned += int(args["amount"])
            _earn(books, event)
        elif event.name == "Distributed":
            for owner, units in _arrived(books, _distribute(books, event), failed):
                pay(owner, units)
            failed = []
        elif event.name == "TransferFailed":
            failed.append(event)
        elif event.name == "Collected":
            _collect(books, event, times.get(event.block_number))
            pay(Address(args["to"]), int(args["amount"]))
        elif event.name == "Withdrawn":
            _withdraw(books, event)
            pay(Address(args["payer"]), int(args["amount"]))
        elif event.name == "PayoutAddressSet":
            if wrong := books.payouts.name(event, times.get(event.block_number)):
                books.findings.append(f"{_where(event)} {wrong}")
        else:
            _registered(books, event)
    _arrived(books, [], failed)
    where = f"transaction {hex_of(transaction)}"
    if claimed > earned:
        books.findings.append(f"{where} took {claimed} units from channels and {earned} arrived")
    wanted = {account: units for account, units in expected.items() if units}
    if transfers is None:
        if wanted:
            books.unfollowed += 1
        return
    moved = {to: units for to, units in transfers.get(transaction, {}).items() if units}
    for account in sorted(wanted.keys() | moved.keys()):
        due, got = wanted.get(account, 0), moved.get(account, 0)
        if due != got:
            books.findings.append(f"{where} paid {account} {got} units, and {due} were due")


def _registered(books: RebuiltBooks, event: Event) -> None:
    """Apply an event about owners of works, registrations of adapters, or deposits."""
    args = event.args
    if event.contract == "ContentRegistry" and event.name == "Transfer":
        books.owners[ContentId(args["tokenId"])] = Address(args["to"])
    elif event.name == "AdapterRegistered":
        books.adapters[AdapterId(args["adapterId"])] = RebuiltAdapter(
            Address(args["trainer"]),
            int(args["royaltyBps"]),
            int(args["trainerBps"]),
            tuple(shares_from_words(args["shares"])),
        )
    elif event.name == "ChannelOpened":
        books.channels[Hash32(args["channelId"])] = RebuiltChannel(
            Address(args["signer"]), Address(args["node"]), Address(args["payer"])
        )
    elif event.name == "Deposited" and (channel := _channel(books, event)) is not None:
        channel.deposit_units += int(args["amount"])


def _channel(books: RebuiltBooks, event: Event) -> RebuiltChannel | None:
    found = books.channels.get(Hash32(event.args["channelId"]))
    if found is None:
        books.findings.append(f"{_where(event)} is of a channel that was never opened")
    return found


def _claim(books: RebuiltBooks, event: Event) -> Units:
    channel = _channel(books, event)
    if channel is None:
        return 0
    taken = int(event.args["settled"]) - channel.settled_units
    if not 0 < taken <= channel.deposit_units:
        books.findings.append(
            f"{_where(event)} takes {taken} units of a deposit of {channel.deposit_units}"
        )
    channel.settled_units += taken
    channel.deposit_units -= taken
    return taken


def _withdraw(books: RebuiltBooks, event: Event) -> None:
    channel = _channel(books, event)
    if channel is None:
        return
    amount = int(event.args["amount"])
    if amount != channel.deposit_units or event.args["payer"] != channel.payer:
        books.findings.append(
            f"{_where(event)} gives {amount} units to {event.args['payer']}, and the channel of "
            f"{channel.payer} has {channel.deposit_units}"
        )
    channel.deposit_units = 0


def _earn(books: RebuiltBooks, event: Event) -> None:
    args, adapter_id = event.args, AdapterId(event.args["adapterId"])
    amount = int(args["amount"])
    told = (int(args["toContents"]), int(args["toTrainer"]), int(args["toNode"]))
    if adapter_id == BASE_MODEL:
        rules = [split_base_model(amount)]
    elif (adapter := books.adapters.get(adapter_id)) is None:
        books.findings.append(f"{_where(event)} pays adapter {adapter_id}, which is not registered")
        rules = []
    else:
        # Whether it was retired, and whether the node was permitted, is the block's to know. Each
        # of the three is a rule of the contract; nothing else is.
        rates: dict[str, Any] = {
            "royalty_bps": adapter.royalty_bps,
            "trainer_bps": adapter.trainer_bps,
        }
        before = adapter.gross_units
        rules = [
            split_revenue(before, amount, **rates),
            split_revenue(before, amount, **rates, permitted=False),
            split_revenue(before, amount, **rates, retired=True),
        ]
        if args["trainer"] != adapter.trainer:
            books.findings.append(f"{_where(event)} names {args['trainer']} as the trainer")
        adapter.gross_units += amount
        adapter.works_units += told[0]
    parts = [(each.to_contents_units, each.to_trainer_units, each.to_node_units) for each in rules]
    if rules and told not in parts:
        books.findings.append(
            f"{_where(event)} splits {amount} units into {told}, and the rates give {parts[0]}"
        )
    for account, units in ((args["trainer"], told[1]), (args["node"], told[2])):
        if units:
            books.balances[Address(account)] = books.balances.get(Address(account), 0) + units


def _distribute(books: RebuiltBooks, event: Event) -> list[tuple[Address, Units]]:
    """Return the transfers that a distribution makes: to whom, and the amount.

    Works next to each other in the table of shares that have one owner are paid together.
    """
    adapter_id, accrued = AdapterId(event.args["adapterId"]), int(event.args["accrued"])
    adapter = books.adapters.get(adapter_id)
    if adapter is None:
        books.findings.append(f"{_where(event)} is of adapter {adapter_id}, not registered")
        return []
    waits = books.undistributed(adapter_id)
    if accrued != waits:
        books.findings.append(f"{_where(event)} takes {accrued} units, and {waits} waited")
    parts = distribute(adapter.distributed_units, accrued, adapter.shares)
    adapter.distributed_units += accrued
    paid = sum(units for _, units in parts)
    if paid != int(event.args["paid"]):
        books.findings.append(
            f"{_where(event)} says that {event.args['paid']} units were paid, and the shares give "
            f"{paid}"
        )
    found: list[tuple[Address, Units]] = []
    for content_id, units in parts:
        if not units:
            continue
        owner = books.owners.get(content_id, ZERO_ADDRESS)
        if owner == ZERO_ADDRESS:
            books.findings.append(f"{_where(event)} pays work {content_id}, which nobody owns")
        with_last = found.pop()[1] if found and found[-1][0] == owner else 0
        found.append((owner, with_last + units))
    return found


def _arrived(
    books: RebuiltBooks, sent: list[tuple[Address, Units]], failed: Iterable[Event]
) -> list[tuple[Address, Units]]:
    """Credit the transfers of a distribution that failed; return the others.

    Only a transfer that the distribution makes can have failed, and each only once.
    """
    left = list(sent)
    for event in failed:
        account, units = Address(event.args["account"]), int(event.args["amount"])
        if (account, units) not in left:
            books.findings.append(
                f"{_where(event)} keeps {units} units for {account}, and no distribution sent them"
            )
            continue
        left.remove((account, units))
        books.balances[account] = books.balances.get(account, 0) + units
    return left


def _collect(books: RebuiltBooks, event: Event, time_s: int | None) -> None:
    account, amount = Address(event.args["account"]), int(event.args["amount"])
    has = books.balances.get(account, 0)
    if amount != has:
        books.findings.append(f"{_where(event)} collects {amount} units for {account}, of {has}")
    books.balances[account] = 0
    to, due = Address(event.args["to"]), books.payouts.of(account, time_s)
    if to not in due:
        books.findings.append(
            f"{_where(event)} sends the balance of {account} to {to}, and it was due to "
            f"{' or '.join(sorted(due))}"
        )
    elif len(due) > 1:
        books.undated += 1


def _where(event: Event) -> str:
    return f"{event.name} in block {event.block_number}, log {event.log_index},"
