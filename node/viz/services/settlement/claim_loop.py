"""Claim the buyers' vouchers on chain.

Owns the decision when a voucher becomes a claim row, and the outbox that sends rows to the chain.
Invariants:

- A row is frozen in one commit with its channel's base, and sent only after that. Whether it is
  settled is read from the channel's settled total at the confirmation depth, not from a
  transaction's result: at or above the row's end it is settled, below it is not. So a crash, a lost
  answer, a repeated transaction or a reorganisation can neither lose a row nor count it twice.
- No claim is sent while the outcome of an earlier one is unknown.
- While the chain's fee is above the operator's bound, rows stay frozen and wait. Near a deadline
  (``ClaimContext.pressing``) they are sent, and a stuck claim's fee is raised, at up to four times
  the bound.
- Rows that would fail are never sent. If such a row can still become good (the deposit was
  withdrawn, an earlier row is missing), it is kept. Any other is dropped, with a log line, after
  the chain refused it for the same reason in every pass of an hour: one wrong answer of an endpoint
  must not lose money. The operator's own claim reopens every dropped row.
- If no row ends at the chain's settled total, no row is finished: the endpoint answered wrongly, or
  the ledger is older than the chain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from viz.domain.claim_rows import RowStatus
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.ports.settlement_ledger import ClaimRecord, SettlementLedger
from viz.domain.ports.transactions import ChainWriter, Transaction
from viz.domain.typed_data import channel_id
from viz.domain.units import Address, Hash32, Units
from viz.errors import ChainError, ChainUnreachable, InvalidRequest
from viz.services.payments.channel_events import ChannelEvents
from viz.services.settlement.claim_deadlines import ClaimBy, ClaimDeadlines
from viz.services.settlement.claim_policy import (
    ClaimContext,
    ClaimPolicy,
    batches,
    choose,
    packed,
    value_of,
    weigh,
)
from viz.services.settlement.claim_sender import ClaimSender

_WAITING: Final = frozenset(
    {RowStatus.NO_CHANNEL, RowStatus.WRONG_BASE, RowStatus.INSUFFICIENT_DEPOSIT}
)
# A row that is really bad stays bad. A wrong answer of an endpoint about a good row passes.
DROP_AFTER_S: Final = 3_600
DROP_AFTER_PASSES: Final = 3
_log = structlog.get_logger()

__all__ = ["ClaimPolicy", "ClaimReport", "ClaimService"]


@dataclass(frozen=True, slots=True)
class ClaimReport:
    """The result of one pass; ``claimed_units`` counts the rows that it claimed on chain."""

    frozen: int = 0
    settled: int = 0
    dropped: int = 0
    waiting: int = 0
    claimed_units: Units = 0
    transactions: tuple[Transaction, ...] = ()


@dataclass(slots=True)
class _RefusedRow:
    """Why the chain refuses a row, since when, and in how many consecutive passes."""

    status: RowStatus
    since_s: int
    passes: int = 0


class ClaimService:
    """Carries claim rows from the ledger to the chain, one pass at a time."""

    def __init__(
        self,
        reader: ChainReader,
        writer: ChainWriter,
        ledger: SettlementLedger,
        clock: Clock,
        policy: ClaimPolicy,
        *,
        events: ChannelEvents,
        fee_wei: Callable[[], Awaitable[int]] | None = None,
        claim_by: ClaimBy | None = None,
    ) -> None:
        """Create the service.

        ``fee_wei`` returns what a unit of gas costs now (None: gas is free). ``claim_by`` returns
        the chain time before which an adapter's earnings must be claimed, if the adapter ends.
        """
        self._reader = reader
        self._writer = writer
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._pass = asyncio.Lock()
        self._wake = asyncio.Event()
        self._deadlines = ClaimDeadlines(reader, writer.address, claim_by)
        self._fee_wei = fee_wei
        self._due_since: dict[Address, int] = {}
        self._told: set[tuple[int, RowStatus]] = set()
        self._refused: dict[int, _RefusedRow] = {}
        self._sender = ClaimSender(writer, clock)
        self._pressing: frozenset[Address] = frozenset()
        self._row_frozen = events.row_frozen
        events.close_seen.listen(self.close_requested)

    def close_requested(self, signer: Address) -> None:
        """Start a pass now that claims this channel: its payer requested a close."""
        if self._deadlines.close_requested(signer):
            self._wake.set()

    async def channel_closing(self, channel: Hash32) -> None:
        """Call ``close_requested`` for a channel's id, which the event CloseRequested names.

        Ignores channels to other nodes.
        """
        for held in await self._ledger.channels():
            if channel_id(held.signer, self._writer.address) == channel:
                self.close_requested(held.signer)

    @property
    def fees_raised(self) -> int:
        """How many times the node raised the fee of a stuck transaction."""
        return self._writer.fees_raised

    async def run(self) -> None:
        """Claim as the policy decides, until cancelled; retry after a failure of the chain."""
        told = ""
        while True:
            self._wake.clear()
            try:
                await self.step()
                told = ""
            except ChainError as error:
                if error.code != told:  # a high fee may last for hours: it is logged once
                    _log.warning("claim postponed", reason=error.detail)
                told = error.code
            try:
                async with asyncio.timeout(self._policy.interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self, *, force: bool = False) -> ClaimReport:
        """Make one pass; ``force`` claims everything without asking the policy.

        Raises StoreError, ChainUnreachable, and, if no row could be sent, FeeTooHigh or
        TransactionFailed.
        """
        return await self._make_pass(force=force)

    async def claim(self, signer: Address) -> ClaimReport:
        """Claim everything unclaimed of this signer's channel, and of no other.

        A stranger can cause this call, so the node must not pay for other channels' rows here.
        Raises InvalidRequest if the claim costs more than it earns, and what ``step`` raises.
        """
        return await self._make_pass(force=True, only=signer)

    async def _make_pass(self, *, force: bool, only: Address | None = None) -> ClaimReport:
        async with self._pass:
            # First find the outcome of earlier claims. A row whose claim is still open must not be
            # sent again: both transactions could be mined, and the second would only cost gas.
            unresolved = [
                found
                for found in await self._writer.recover(urgent=bool(self._pressing))
                if found.outcome.undecided and found.what == "Settlement.claim"
            ]
            operator = force and only is None
            if operator:
                await self._ledger.take_up_dropped()
            settled = await self._finish_settled(only)
            if unresolved:
                _log.info("claim waits", open_transactions=len(unresolved))
                # A deadline may come near while the claim is stuck. This call updates _pressing, so
                # that the next pass recovers the claim as urgent, which raises its fee.
                await self._claim_context((), self._clock.now_s())
                return ClaimReport(settled=settled, waiting=len(await self._ledger.frozen()))
            # After a failed claim only the operator's pass sends again for a while: a fault of the
            # rows or the endpoint would cost gas in every pass.
            if self._sender.held and not operator:
                return ClaimReport(settled=settled, waiting=len(await self._ledger.frozen()))
            frozen = await self._freeze(force=force, only=only)
            rows = await self._ledger.frozen()
            good, dropped = await self._judge(
                rows if only is None else [row for row in rows if row.signer == only]
            )
            sent = await self._sender.send(good, pressing=self._pressing)
            if sent:
                settled += await self._finish_settled(only)
            return ClaimReport(
                frozen,
                settled,
                dropped,
                len(await self._ledger.frozen()),
                sum(
                    event.args["amount"]
                    for transaction in sent
                    for event in transaction.events
                    if event.name == "Earned"
                ),
                tuple(sent),
            )

    async def _finish_settled(self, only: Address | None = None) -> int:
        """Finish the rows whose end the chain has confirmed (of ``only`` if given); count them."""
        settled = 0
        rows: dict[Address, list[ClaimRecord]] = {}
        for row in await self._ledger.frozen():
            if only is None or row.signer == only:
                rows.setdefault(row.signer, []).append(row)
        for signer, own in rows.items():
            channel = await self._reader.channel(signer, self._writer.address)
            total_units = channel.settled_units if channel else 0
            # Only the settled total decides: it is right for any transaction that carried the row.
            # A total between two rows' ends cannot come from this ledger's rows: finish none.
            ended = [row for row in own if row.end_units <= total_units]
            if ended and ended[-1].end_units != total_units:
                _log.error(
                    "no claim row of the ledger ends at the settled total of the chain",
                    signer=signer,
                    chain_units=total_units,
                    books_units=own[-1].end_units,
                )
                continue
            for row in ended:
                await self._ledger.finish(row.claim_id, "settled", "")
                self._deadlines.claimed(signer)
                settled += 1
                _log.info("row settled", signer=signer, units=row.end_units - row.base_units)
        return settled

    async def _freeze(self, *, force: bool, only: Address | None) -> int:
        """Freeze the vouchers that are due, so that they can be sent; return how many."""
        now_s = self._clock.now_s()
        due = [channel for channel in await self._ledger.channels() if value_of(channel)]
        # A new voucher replaces the one before it, so its own time does not show how old the
        # unclaimed money is: the time of the first unclaimed voucher is kept until it is frozen.
        self._due_since = {
            channel.signer: self._due_since.get(channel.signer, channel.voucher_at)
            for channel in due
        }
        chosen: Sequence[ChannelRecord] = due
        if only is not None:
            chosen = [each for each in due if each.signer == only]
            _require_worth(chosen, self._policy, await self._fee() if chosen else 0)
        else:
            context = await self._claim_context(due, now_s)
            if not force:
                chosen = choose(due, self._policy, context)
        frozen = 0
        for channel in chosen:
            row = await self._ledger.freeze(channel.signer, now_s=now_s)
            if row is not None:
                # Now, not after the loop: a request that is served meanwhile must read the
                # channel's new base.
                self._row_frozen.tell(row.signer)
                frozen += 1
                self._due_since.pop(row.signer, None)
                _log.info("row frozen", signer=row.signer, units=row.end_units - row.base_units)
        return frozen

    async def _claim_context(self, due: Sequence[ChannelRecord], now_s: int) -> ClaimContext:
        """Return the fee and the deadlines of due channels and frozen rows; update _pressing."""
        unclaimed = {each.signer: set(each.unclaimed()) for each in due}
        for row in await self._ledger.frozen():
            unclaimed.setdefault(row.signer, set()).update(key for key, _ in row.lines)
        deadlines = await self._deadlines.of(unclaimed)
        chain_now_s = await self._reader.chain_time() if deadlines else now_s
        fee_wei = await self._fee() if due else 0
        context = ClaimContext(now_s, chain_now_s, fee_wei, deadlines, self._due_since)
        self._pressing = context.pressing
        return context

    async def _fee(self) -> int:
        return await self._fee_wei() if self._policy.coin_units and self._fee_wei else 0

    async def _judge(self, rows: Sequence[ClaimRecord]) -> tuple[list[ClaimRecord], int]:
        """Ask the chain how it would judge the rows; return the good ones and the number dropped.

        A bad row costs gas and earns nothing, so the contract's view is asked before sending.
        """
        good: list[ClaimRecord] = []
        dropped = 0
        for part in batches(rows):
            statuses = await self._reader.preview_claim(self._writer.address, packed(part))
            if len(statuses) != len(part):
                raise ChainUnreachable(
                    f"the chain returned {len(statuses)} statuses for {len(part)} rows: use "
                    "another rpc_url if this continues"
                )
            for row, status in zip(part, statuses, strict=True):
                if status is RowStatus.GOOD:
                    self._refused.pop(row.claim_id, None)
                    good.append(row)
                    continue
                self._tell_waiting(row, status)
                if self._is_bad_for_good(row, status):
                    dropped += 1
                    await self._ledger.finish(row.claim_id, "dropped", status.name)
                    _log.error(
                        "row dropped",
                        signer=row.signer,
                        status=status.name,
                        unclaimed_units=row.end_units - row.base_units,
                    )
        return good, dropped

    def _is_bad_for_good(self, row: ClaimRecord, status: RowStatus) -> bool:
        """Record that the chain refused the row; return whether to drop it now."""
        if status in _WAITING:
            self._refused.pop(row.claim_id, None)
            return False
        now_s = self._clock.now_s()
        known = self._refused.get(row.claim_id)
        if known is None or known.status is not status:
            known = self._refused[row.claim_id] = _RefusedRow(status, now_s)
        known.passes += 1
        if known.passes < DROP_AFTER_PASSES or now_s - known.since_s < DROP_AFTER_S:
            return False
        del self._refused[row.claim_id]
        return True

    def _tell_waiting(self, row: ClaimRecord, status: RowStatus) -> None:
        # Logged once: a row that is mined but not yet confirmed is normally in this state too.
        if (row.claim_id, status) not in self._told:
            self._told.add((row.claim_id, status))
            tell = _log.info if status in _WAITING else _log.warning
            tell("row waits", signer=row.signer, status=status.name, base=row.base_units)


def _require_worth(chosen: Sequence[ChannelRecord], policy: ClaimPolicy, fee_wei: int) -> None:
    """Raise InvalidRequest if the claim of one channel would cost the node more than it earns.

    A stranger can cause such a claim by a request to close, so it must not cost the node money.
    """
    value, cost = weigh(chosen, policy, fee_wei)
    if chosen and cost >= value:
        raise InvalidRequest(
            f"to claim this channel's {value} units costs {cost} units in gas: request the "
            "close on chain instead, and withdraw after its delay"
        )
