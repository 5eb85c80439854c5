"""Claiming what buyers signed, distributing royalties, collecting income.

Owns the decision when a voucher becomes a claim row, and the outbox that carries rows to the chain.
Invariants:

- A row is frozen, with its channel's base, in one commit, and only then sent. What became of it is
  read from the channel's settled total at the confirmation depth, never from a transaction's fate:
  at or above the row's end it is settled, below it is not. So a crash, a lost answer, a repeated
  transaction or a reorganisation can neither lose a row nor count it twice.
- No claim is sent while an earlier one's outcome is open.
- While the chain's fee is above the operator's bound, rows stay frozen and wait. Where a deadline
  presses (``ClaimContext.pressing``) they are sent, and a stuck claim's fee is raised, at up to
  four times the bound.
- Rows that would fail are never sent: those that can still become good (the deposit was withdrawn,
  an earlier row is missing) are kept. All others are dropped, with a log line, once the chain said
  the same in every pass of an hour: one wrong answer of an endpoint gives up no money. The
  operator's own claim takes up every dropped row again.
- A settled total at which no row ends finishes none: the endpoint answered wrongly, or the ledger
  is older than the chain.
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
from viz.domain.ports.transactions import Call, ChainWriter, Outcome, Transaction
from viz.domain.shares import Share, share_words
from viz.domain.typed_data import channel_id
from viz.domain.units import AdapterId, Address, Hash32, Units
from viz.errors import ChainError, ChainUnreachable, InvalidRequest, UnknownAdapter
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
# A row that is bad stays bad: what a faulty endpoint says of a good one passes.
DROP_AFTER_S: Final = 3_600
DROP_AFTER_PASSES: Final = 3
_log = structlog.get_logger()

__all__ = ["ClaimPolicy", "ClaimReport", "ClaimService"]


@dataclass(frozen=True, slots=True)
class ClaimReport:
    """What one pass did. ``claimed_units`` counts rows that reached the chain in this pass."""

    frozen: int = 0
    settled: int = 0
    dropped: int = 0
    waiting: int = 0
    claimed_units: Units = 0
    transactions: tuple[Transaction, ...] = ()


@dataclass(slots=True)
class _Refusal:
    """What the chain says of a row, since when, and in how many passes without a break."""

    status: RowStatus
    since_s: int
    passes: int = 0


class ClaimService:
    """The outbox between the ledger and the chain, one pass at a time."""

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
        """Make the outbox; ``fee_wei`` says what a unit of gas costs now (None: nothing), and
        ``claim_by`` when an adapter's earnings must be claimed, where it ends."""
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
        self._refused: dict[int, _Refusal] = {}
        self._sender = ClaimSender(writer, clock)
        self._pressing: frozenset[Address] = frozenset()
        self._row_frozen = events.row_frozen
        events.close_seen.listen(self.close_requested)

    def close_requested(self, signer: Address) -> None:
        """Claim this channel at the next pass, and make that now; its payer is leaving."""
        if self._deadlines.close_requested(signer):
            self._wake.set()

    async def channel_closing(self, channel: Hash32) -> None:
        """Do as ``close_requested`` by the channel's id, as the event CloseRequested names it.

        Channels of other nodes are ignored.
        """
        for held in await self._ledger.channels():
            if channel_id(held.signer, self._writer.address) == channel:
                self.close_requested(held.signer)

    @property
    def fees_raised(self) -> int:
        """How often the node offered more for a transaction that no block took."""
        return self._writer.fees_raised

    async def run(self) -> None:
        """Claim when the policy says so, until cancelled; retry after a failure of the chain."""
        told = ""
        while True:
            self._wake.clear()
            try:
                await self.step()
                told = ""
            except ChainError as error:
                if error.code != told:  # a high fee may last for hours: it is logged once
                    _log.warning("claim put off", reason=error.detail)
                told = error.code
            try:
                async with asyncio.timeout(self._policy.interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self, *, force: bool = False) -> ClaimReport:
        """Make one pass; ``force`` claims all there is, whatever the policy says.

        Raises ChainUnreachable, and TransactionFailed where the claim as a whole cannot be sent.
        """
        return await self._make_pass(force=force)

    async def claim(self, signer: Address) -> ClaimReport:
        """Claim all that this signer owes now, and no other channel. Raises as ``step``.

        A stranger may cause this: it must not make the node pay for other channels' rows.
        """
        return await self._make_pass(force=True, only=signer)

    async def _make_pass(self, *, force: bool, only: Address | None = None) -> ClaimReport:
        async with self._pass:
            # The outcome of earlier claims comes first. A row whose claim is still open must not be
            # sent again beside it: both could be mined, and the second would only cost gas.
            unresolved = [
                found
                for found in await self._writer.recover(urgent=bool(self._pressing))
                if found.outcome in (Outcome.PENDING, Outcome.UNKNOWN)
                and found.what == "Settlement.claim"
            ]
            operator = force and only is None
            if operator:
                await self._ledger.take_up_dropped()
            settled = await self._finish_settled(only)
            if unresolved:
                _log.info("claim waits", open_transactions=len(unresolved))
                # A deadline may come near while the claim is stuck. Noted here, so that the next
                # pass recovers it as urgent, which raises its fee.
                await self._claim_context((), self._clock.now_s())
                return ClaimReport(settled=settled, waiting=len(await self._ledger.frozen()))
            # A claim that failed pauses all but the operator's: a fault of the rows or the endpoint
            # would burn gas in every pass.
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

    async def distribute(self, adapter_id: AdapterId) -> Transaction:
        """Pay an adapter's royalties to the present owners of its works; anyone may call it.

        Raises UnknownAdapter, TransactionFailed, OutcomeUnknown.
        """
        adapter = await self._reader.adapter(adapter_id)
        if adapter is None:
            raise UnknownAdapter(f"adapter {adapter_id} is not registered, or not confirmed yet")
        words = list(share_words(Share(*row) for row in adapter.shares))
        call = Call("Settlement", "distribute", (adapter_id, words))
        sent = await self._writer.submit(call)
        return sent.require_settled(f"distributing adapter {adapter_id}'s royalties")

    async def undistributed(self, adapter_ids: Sequence[AdapterId]) -> dict[AdapterId, Units]:
        """Return what the works of these adapters earned and nobody distributed, where any is."""
        found = {each: await self._reader.undistributed(each) for each in adapter_ids}
        return {each: units for each, units in found.items() if units}

    async def collect(self, account: Address | None = None) -> Transaction:
        """Send an account's balance (this node's own by default) to it or its payout address."""
        call = Call("Settlement", "collect", (account or self._writer.address,))
        return (await self._writer.submit(call)).require_settled("collecting")

    async def _finish_settled(self, only: Address | None = None) -> int:
        """Close the rows (of one signer) whose end the chain has confirmed; return how many."""
        settled = 0
        rows: dict[Address, list[ClaimRecord]] = {}
        for row in await self._ledger.frozen():
            if only is None or row.signer == only:
                rows.setdefault(row.signer, []).append(row)
        for signer, own in rows.items():
            channel = await self._reader.channel(signer, self._writer.address)
            total_units = channel.settled_units if channel else 0
            # The settled total alone decides: it is true whichever transaction carried the row.
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
        # A voucher replaces the one before it, so its own time does not say how old the money is:
        # the first sight of unclaimed money is kept until a row takes it.
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
                # At once: a request that is served meanwhile must read the channel's new base.
                self._row_frozen.tell(row.signer)
                frozen += 1
                self._due_since.pop(row.signer, None)
                _log.info("row frozen", signer=row.signer, units=row.end_units - row.base_units)
        return frozen

    async def _claim_context(self, due: Sequence[ChannelRecord], now_s: int) -> ClaimContext:
        """Return the fee now and the deadlines of the due and the frozen; note what presses."""
        owing = {each.signer: set(each.unclaimed()) for each in due}
        for row in await self._ledger.frozen():
            owing.setdefault(row.signer, set()).update(key for key, _ in row.lines)
        deadlines = await self._deadlines.of(owing)
        chain_now_s = await self._reader.chain_time() if deadlines else now_s
        fee_wei = await self._fee() if due else 0
        context = ClaimContext(now_s, chain_now_s, fee_wei, deadlines, self._due_since)
        self._pressing = context.pressing
        return context

    async def _fee(self) -> int:
        return await self._fee_wei() if self._policy.coin_units and self._fee_wei else 0

    async def _judge(self, rows: Sequence[ClaimRecord]) -> tuple[list[ClaimRecord], int]:
        """Ask the chain how it would judge the rows; return the good ones and the number dropped.

        A bad row brings nothing and costs gas all the same, so the contract's view is asked first.
        """
        good: list[ClaimRecord] = []
        dropped = 0
        for part in batches(rows):
            statuses = await self._reader.preview_claim(self._writer.address, packed(part))
            if len(statuses) != len(part):
                raise ChainUnreachable(
                    f"the chain answered nonsense: {len(statuses)} judgements of {len(part)} rows"
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
        """Note that the chain refused the row; say whether it did so long enough to drop it."""
        if status in _WAITING:
            self._refused.pop(row.claim_id, None)
            return False
        now_s = self._clock.now_s()
        known = self._refused.get(row.claim_id)
        if known is None or known.status is not status:
            known = self._refused[row.claim_id] = _Refusal(status, now_s)
        known.passes += 1
        if known.passes < DROP_AFTER_PASSES or now_s - known.since_s < DROP_AFTER_S:
            return False
        del self._refused[row.claim_id]
        return True

    def _tell_waiting(self, row: ClaimRecord, status: RowStatus) -> None:
        # Logged once: it is also the ordinary state of a row that is mined and not yet confirmed.
        if (row.claim_id, status) not in self._told:
            self._told.add((row.claim_id, status))
            tell = _log.info if status in _WAITING else _log.warning
            tell("row waits", signer=row.signer, status=status.name, base=row.base_units)


def _require_worth(chosen: Sequence[ChannelRecord], policy: ClaimPolicy, fee_wei: int) -> None:
    """Raise InvalidRequest if the claim of one channel would cost the node more than it brings.

    A stranger can cause such a claim by asking to close, so it may not cost anything.
    """
    value, cost = weigh(chosen, policy, fee_wei)
    if chosen and cost >= value:
        raise InvalidRequest(
            f"claiming the {value} units owed here would cost {cost} units of gas: request the "
            "close on chain instead, and withdraw after its delay"
        )
