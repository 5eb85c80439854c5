"""Settlement's books in plain Python: what the contract must say, written from docs/contracts.md.

Owns channels, revenues, accounts and token balances, how each function changes them, and the
events that tell of it. Splits and floors are ``viz.domain.shares``, so the contract is compared
with what the product computes. Knows no chain. Each method raises ``Refused`` and changes nothing,
or applies. The numbered invariants, checked by ``check``:

 S1  the token balance is unspent deposits + undistributed royalties (rounding included) +
     uncollected balances + what was sent unasked;
 S2  a channel's settled total + deposit + refunds is what was paid in, and the settled total is
     the sum of the lines claimed on it;
 S3  an adapter's revenue is what contents, trainer and node got of it, and at most two units more;
 S4  a content received floor(divided * bps / 10,000): the receipts sum to the accrual to the last
     distributed unit, and lack less than a unit a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.properties.settlement.registry import Refused, Registry, refuse
from tests.properties.settlement.rows import Row, parse

from viz.domain.claim_rows import RowStatus
from viz.domain.eip712 import Domain
from viz.domain.shares import ShareTable, Split, distribute, split_base_model, split_revenue
from viz.domain.typed_data import channel_id
from viz.domain.units import BPS, UINT96_MAX, ZERO_ADDRESS, Address, Hash32, Units

# Settlement keeps an adapter's revenue modulo this multiple of 10,000, just below 2^96.
REVENUE_MODULUS = UINT96_MAX // BPS * BPS

Event = tuple[str, dict[str, Any]]
Pair = tuple[Address, Address]


@dataclass
class ChannelBook:
    payer: Address = ZERO_ADDRESS
    deposit: Units = 0
    settled: Units = 0
    close_at: int = 0
    close_signed_until: int = 0
    # what the contract does not keep
    paid_in: Units = 0
    refunded: Units = 0
    exits: int = 0
    claimed: dict[int, Units] = field(default_factory=dict)


@dataclass
class RevenueBook:
    gross: Units = 0
    undistributed: Units = 0
    divided: Units = 0
    # what the contract does not keep
    to_people: Units = 0
    received: dict[int, Units] = field(default_factory=lambda: defaultdict(int))


@dataclass
class AccountBook:
    balance: Units = 0
    payout: Address = ZERO_ADDRESS
    next_payout: Address = ZERO_ADDRESS
    next_payout_at: int = 0

    def pays_to(self, account: Address, now_s: int) -> Address:
        due = self.next_payout_at and now_s >= self.next_payout_at
        to = self.next_payout if due else self.payout
        return account if to == ZERO_ADDRESS else to


@dataclass
class Books:
    """One Settlement at ``home``; ``now_s`` is the time of the block that is being made."""

    domain: Domain
    home: Address
    close_delay_s: int
    registry: Registry
    now_s: int
    channels: dict[Pair, ChannelBook] = field(default_factory=lambda: defaultdict(ChannelBook))
    revenues: dict[int, RevenueBook] = field(default_factory=lambda: defaultdict(RevenueBook))
    accounts: dict[Address, AccountBook] = field(default_factory=lambda: defaultdict(AccountBook))
    tokens: dict[Address, Units] = field(default_factory=lambda: defaultdict(int))
    used_nonces: set[tuple[Address, Hash32]] = field(default_factory=set)
    donated: Units = 0
    events: list[Event] = field(default_factory=list)
    # every row that was ever paid, with who claimed it
    paid: list[tuple[Address, bytes]] = field(default_factory=list)

    # channels

    def open(
        self, pair: Pair, payer: Address, units: Units, consent: bool, pull: Callable[[], None]
    ) -> None:
        """``pull`` refuses, or says that the payment can be drawn."""
        channel = self.channels[pair]
        if channel.payer != payer:
            refuse(channel.payer != ZERO_ADDRESS, "WrongPayer")
            refuse(pair[0] != payer and not consent, "BadSignature")
        pull()
        self._refuse_to_pull(payer, units)
        if channel.payer != payer:
            channel.payer = payer
            self._tell(
                "ChannelOpened",
                channelId=channel_id(*pair),
                signer=pair[0],
                node=pair[1],
                payer=payer,
            )
        self._deposit(pair, payer, units)

    def top_up(
        self, pair: Pair, by: Address, expected: Address, units: Units, pull: Callable[[], None]
    ) -> None:
        payer = self.channels[pair].payer
        refuse(payer == ZERO_ADDRESS, "NoChannel")
        refuse(payer != expected, "WrongPayer")
        pull()
        self._refuse_to_pull(by, units)
        self._deposit(pair, by, units)

    def _refuse_to_pull(self, by: Address, units: Units) -> None:
        refuse(self.tokens[by] < units, "ERC20InsufficientBalance")
        refuse(self.tokens[self.home] + units > UINT96_MAX, "AmountTooLarge")
        refuse(units == 0, "ZeroAmount")

    def _deposit(self, pair: Pair, by: Address, units: Units) -> None:
        channel = self.channels[pair]
        channel.deposit += units
        channel.paid_in += units
        self._move(by, self.home, units)
        self._tell("Deposited", channelId=channel_id(*pair), **{"from": by}, amount=units)

    def authorized(self, payer: Address, nonce: Hash32, genuine: bool) -> Callable[[], None]:
        """Return the token's side of a deposit by EIP-3009."""

        def pull() -> None:
            refuse(not genuine, "ERC3009InvalidSignature")
            refuse((payer, nonce) in self.used_nonces, "ERC3009UsedAuthorization")

        return pull

    def request_close(self, pair: Pair, by: Address) -> None:
        channel = self.channels[pair]
        refuse(channel.payer != by, "NotPayer")
        refuse(bool(channel.close_at), "AlreadyClosing")
        self._close(pair)

    def request_close_for(self, pair: Pair, deadline_s: int, by: Address) -> None:
        channel = self.channels[pair]
        refuse(channel.payer == ZERO_ADDRESS, "NoChannel")
        refuse(self.now_s > deadline_s, "DeadlinePassed")
        refuse(deadline_s <= channel.close_signed_until, "SignatureUsed")
        refuse(channel.payer != by, "BadSignature")
        refuse(bool(channel.close_at), "AlreadyClosing")
        channel.close_signed_until = deadline_s
        self._close(pair)

    def _close(self, pair: Pair) -> None:
        close_at = self.channels[pair].close_at = self.now_s + self.close_delay_s
        self._tell("CloseRequested", channelId=channel_id(*pair), closeAt=close_at)

    def withdraw(self, pair: Pair) -> None:
        close_at = self.channels[pair].close_at
        refuse(not close_at, "NotClosing")
        refuse(self.now_s < close_at, "TooEarly")
        self._refund(pair)

    def close_now(self, pair: Pair, settled: Units, deadline_s: int, genuine: bool) -> None:
        channel = self.channels[pair]
        refuse(channel.payer == ZERO_ADDRESS, "NoChannel")
        refuse(self.now_s > deadline_s, "DeadlinePassed")
        refuse(channel.settled != settled, "WrongTotal")
        refuse(not genuine, "BadSignature")
        self._refund(pair)

    def _refund(self, pair: Pair) -> None:
        channel = self.channels[pair]
        units, channel.deposit, channel.close_at = channel.deposit, 0, 0
        channel.refunded += units
        channel.exits += 1
        self._tell("Withdrawn", channelId=channel_id(*pair), payer=channel.payer, amount=units)
        self._move(self.home, channel.payer, units)

    # claims

    def judge(self, node: Address, payload: bytes) -> list[RowStatus]:
        """Return each row's status, every row seeing what the good ones before it did."""
        seen: dict[Pair, tuple[Units, Units]] = {}
        statuses = []
        for row in parse(payload):
            status, pair = self._judge(node, row, seen)
            if row is not None and pair is not None and status is RowStatus.GOOD:
                deposit, settled = seen[pair]
                seen[pair] = deposit - row.sum_units, settled + row.sum_units
            statuses.append(status)
        return statuses

    def _judge(
        self, node: Address, row: Row | None, seen: dict[Pair, tuple[Units, Units]]
    ) -> tuple[RowStatus, Pair | None]:
        if row is None:
            return RowStatus.TRUNCATED, None
        if not row.lines:
            return RowStatus.NO_LINES, None
        signer = row.signer(self.domain, node)
        if signer is None:
            return RowStatus.BAD_SIGNATURE, None
        pair = signer, node
        channel = self.channels.get(pair, ChannelBook())
        deposit, settled = seen.setdefault(pair, (channel.deposit, channel.settled))
        return self._judge_on(row, deposit, settled), pair

    def _judge_on(self, row: Row, deposit: Units, settled: Units) -> RowStatus:
        if deposit == 0 and settled == 0:
            return RowStatus.NO_CHANNEL
        if row.base_units != settled:
            return RowStatus.WRONG_BASE
        last = -1
        for adapter_id in (int(line.adapter_id) for line in row.lines):
            if adapter_id <= last:
                return RowStatus.BAD_ORDER
            if adapter_id and adapter_id not in self.registry.adapters:
                return RowStatus.UNKNOWN_ADAPTER
            last = adapter_id
        if any(units == 0 for _, units in row.lines):
            return RowStatus.ZERO_AMOUNT
        if row.sum_units > deposit:
            return RowStatus.INSUFFICIENT_DEPOSIT
        too_large = settled + row.sum_units > UINT96_MAX
        return RowStatus.TOTAL_TOO_LARGE if too_large else RowStatus.GOOD

    def claim(self, node: Address, payload: bytes) -> list[Row]:
        """Return the rows that were good."""
        earned: dict[int, Units] = defaultdict(int)
        good = []
        statuses = self.judge(node, payload)
        for number, (row, status) in enumerate(zip(parse(payload), statuses, strict=True)):
            if row is None or status is not RowStatus.GOOD:
                self._tell("RowRefused", node=node, row=number, status=int(status))
                continue
            signer = row.signer(self.domain, node)
            assert signer is not None
            channel = self.channels[signer, node]
            channel.deposit -= row.sum_units
            channel.settled += row.sum_units
            for adapter_id, units in row.lines:
                channel.claimed[adapter_id] = channel.claimed.get(adapter_id, 0) + units
                earned[adapter_id] += units
            self._tell(
                "Claimed",
                channelId=channel_id(signer, node),
                settled=channel.settled,
                receiptsHead=row.head,
            )
            good.append(row)
            self.paid.append((node, row.packed()))
        for earner, units in sorted(earned.items()):
            self._earn(earner, node, units)
        return good

    # earning

    def pay(self, by: Address, adapter_id: int, node: Address, units: Units) -> None:
        known = adapter_id == 0 or adapter_id in self.registry.adapters
        refuse(not known, "UnknownAdapter")
        self._refuse_to_pull(by, units)
        self._move(by, self.home, units)
        self._earn(adapter_id, node, units)

    def _earn(self, adapter_id: int, node: Address, units: Units) -> None:
        trainer = ZERO_ADDRESS
        if adapter_id == 0:
            split = split_base_model(units)
        else:
            trainer = self.registry.adapters[adapter_id].trainer
            split = self._split(adapter_id, node, units)
        self._tell(
            "Earned",
            adapterId=adapter_id,
            node=node,
            trainer=trainer,
            amount=units,
            toContents=split.to_contents_units,
            toTrainer=split.to_trainer_units,
            toNode=split.to_node_units,
        )
        self.accounts[trainer].balance += split.to_trainer_units
        self.accounts[node].balance += split.to_node_units

    def _split(self, adapter_id: int, node: Address, units: Units) -> Split:
        adapter, revenue = self.registry.adapters[adapter_id], self.revenues[adapter_id]
        split = split_revenue(
            revenue.gross,
            units,
            royalty_bps=adapter.royalty_bps,
            trainer_bps=adapter.trainer_bps,
            retired=self.now_s >= adapter.retires_at,
            permitted=self.now_s < adapter.may_serve_until(node),
        )
        revenue.gross += units
        revenue.undistributed += split.to_contents_units
        revenue.to_people += split.to_trainer_units + split.to_node_units
        return split

    def distribute(self, adapter_id: int, shares: ShareTable) -> None:
        adapter = self.registry.adapters.get(adapter_id)
        if adapter is None or adapter.shares != shares:
            raise Refused("WrongShares")
        revenue = self.revenues[adapter_id]
        accrued, revenue.undistributed = revenue.undistributed, 0
        parts = distribute(revenue.divided, accrued, shares)
        revenue.divided += accrued
        for work_id, units in parts:
            revenue.received[work_id] += units
            self._move(self.home, self.registry.works[work_id].owner, units)
        paid = sum(units for _, units in parts)
        self._tell("Distributed", adapterId=adapter_id, accrued=accrued, paid=paid)

    def collect(self, account: Address) -> None:
        book = self.accounts[account]
        refuse(book.balance == 0, "NothingToCollect")
        units, to = book.balance, book.pays_to(account, self.now_s)
        book.balance = 0
        self._tell("Collected", account=account, to=to, amount=units)
        self._move(self.home, to, units)

    def set_payout(self, account: Address, to: Address) -> None:
        book, effective_at = self.accounts[account], self.now_s + self.close_delay_s
        if book.next_payout_at and self.now_s >= book.next_payout_at:
            book.payout = book.next_payout
        book.next_payout, book.next_payout_at = to, effective_at
        self._tell("PayoutAddressSet", account=account, to=to, effectiveAt=effective_at)

    def donate(self, by: Address, units: Units) -> None:
        refuse(self.tokens[by] < units, "ERC20InsufficientBalance")
        self._move(by, self.home, units)
        self.donated += units

    # the token

    def _move(self, sender: Address, to: Address, units: Units) -> None:
        self.tokens[sender] -= units
        self.tokens[to] += units
        if sender == to == self.home:
            self.donated += units

    def _tell(self, event: str, **args: Any) -> None:
        self.events.append((event, args))

    # what holds at all times

    def check(self) -> None:
        royalties = balances = deposits = 0
        for channel in self.channels.values():
            assert channel.settled + channel.deposit + channel.refunded == channel.paid_in  # S2
            assert sum(channel.claimed.values()) == channel.settled  # S2
            deposits += channel.deposit
        for adapter_id, revenue in self.revenues.items():
            contents = revenue.divided + revenue.undistributed
            assert 0 <= revenue.gross - contents - revenue.to_people <= 2  # S3
            table = self.registry.adapters[adapter_id].shares
            for work_id, bps in table:
                assert revenue.received[work_id] == revenue.divided * bps // BPS  # S4
            received = sum(revenue.received.values())
            assert revenue.divided - len(table) < received <= revenue.divided  # S4
            royalties += revenue.gross - revenue.to_people - received
        balances = sum(account.balance for account in self.accounts.values())
        assert self.tokens[self.home] == deposits + royalties + balances + self.donated  # S1
