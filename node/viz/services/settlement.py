"""Claiming what buyers signed, distributing royalties, collecting income.

Owns the decision when a voucher becomes a claim row and the outbox that carries rows to the chain.
Does not know HTTP, sessions or how rows are stored. Invariants:

- A row is frozen, with its channel's base, in one commit, and only then sent. What became of it is
  read from the channel's settled total at the confirmation depth, never from a transaction's fate:
  at or above the row's end it is settled, below it is not. So a crash, a lost answer, a repeated
  transaction or a reorganisation can neither lose a row nor count it twice.
- No claim is sent while an earlier one's outcome is open.
- Rows that would fail are never sent: those that can still become good (the deposit was withdrawn,
  an earlier row is missing) are kept, all others are dropped with a log line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from viz.domain.claim import ROW_HEAD_BYTES, RowStatus, SignedVoucher, pack_rows
from viz.domain.ledger import ChannelRecord
from viz.domain.outbox import ClaimRecord, SettlementLedger
from viz.domain.ports import Call, ChainReader, ChainWriter, Clock, Outcome, Transaction
from viz.domain.shares import Share, share_words
from viz.domain.signed import channel_id
from viz.domain.units import BPS, MILLION, AdapterId, Address, Hash32, Units, hex_of
from viz.domain.usage import LINE_BYTES, UsageLine
from viz.errors import ChainError, TransactionFailed, UnknownAdapter
from viz.services.outcome import require_settled

# Measured on anvil, rounded up: 60,000 gas for a claim of one row, 12,500 for each further one.
CLAIM_GAS: Final = 50_000
ROW_GAS: Final = 15_000
MAX_ROWS: Final = 200
# A row holds up to 255 lines, and nodes refuse transactions beyond 128 KiB.
MAX_BATCH_LINES: Final = 2_000
MAX_BATCH_BYTES: Final = 60_000
# A mined claim that failed was judged good a moment before: its gas must not be burnt every pass.
HOLD_AFTER_FAILURE_S: Final = 300
# Eight find one bad row of MAX_ROWS.
MAX_SPLITS: Final = 16
_WAITING: Final = frozenset(
    {RowStatus.NO_CHANNEL, RowStatus.WRONG_BASE, RowStatus.INSUFFICIENT_DEPOSIT}
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """When to claim. ``gas_units_per_million`` is what the operator pays for a million gas.

    With it at 0 gas is not weighed. ``max_gas_bps`` bounds the part of a claim's value that its gas
    may cost where nothing is urgent.
    """

    claim_at_units: Units
    claim_age_s: int
    interval_s: float = 5.0
    gas_units_per_million: Units = 0
    max_gas_bps: int = 500

    def cost_units(self, gas: int) -> Units:
        """Return what that much gas costs, rounded up."""
        return -(-gas * self.gas_units_per_million // MILLION)


@dataclass(frozen=True, slots=True)
class ClaimReport:
    """What one pass did. ``claimed_units`` counts rows that reached the chain in this pass."""

    frozen: int = 0
    settled: int = 0
    dropped: int = 0
    waiting: int = 0
    claimed_units: Units = 0
    transactions: tuple[Transaction, ...] = ()


class Settlement:
    """The outbox between the ledger and the chain, one pass at a time."""

    def __init__(
        self,
        reader: ChainReader,
        writer: ChainWriter,
        ledger: SettlementLedger,
        clock: Clock,
        policy: ClaimPolicy,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._pass = asyncio.Lock()
        self._wake = asyncio.Event()
        self._closing: set[Address] = set()
        self._knows_closing = False
        self._due_since: dict[Address, int] = {}
        self._told: set[int] = set()
        self._hold_until_s = 0

    def close_requested(self, signer: Address) -> None:
        """Claim this channel at the next pass, and make that now; its payer is leaving."""
        self._closing.add(signer)
        self._wake.set()

    async def channel_closing(self, channel: Hash32) -> None:
        """The same by the channel's id, as a CloseRequested event names it; others' are ignored."""
        for held in await self._ledger.channels():
            if channel_id(held.signer, self._writer.address) == channel:
                self.close_requested(held.signer)

    async def run(self) -> None:
        """Claim whenever the policy says so, until cancelled; the chain's failures are retried."""
        while True:
            self._wake.clear()
            try:
                await self.step()
            except ChainError as error:
                _log.warning("claim put off", reason=error.detail)
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
        """Claim all that this signer owes now, and nothing of anybody else. Raises as ``step``.

        A stranger may cause this: it must not make the node pay for other channels' rows.
        """
        return await self._make_pass(force=True, only=signer)

    async def _make_pass(self, *, force: bool, only: Address | None = None) -> ClaimReport:
        async with self._pass:
            unresolved = [
                found
                for found in await self._writer.recover()
                if found.outcome in (Outcome.PENDING, Outcome.UNKNOWN)
                and found.what == "Settlement.claim"
            ]
            settled = await self._finish_settled()
            if unresolved:
                _log.info("claim waits", open_transactions=len(unresolved))
                return ClaimReport(settled=settled, waiting=len(await self._ledger.frozen()))
            operator = force and only is None
            if self._clock.now_s() < self._hold_until_s and not operator:
                return ClaimReport(settled=settled, waiting=len(await self._ledger.frozen()))
            frozen = await self._freeze(force=force, only=only)
            rows = await self._ledger.frozen()
            good, dropped = await self._judge(
                rows if only is None else [row for row in rows if row.signer == only]
            )
            sent = await self._send_all(good)
            if sent:
                settled += await self._finish_settled()
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
        """Pay an adapter's royalties to the present owners of its works. By anyone.

        Raises UnknownAdapter, TransactionFailed, OutcomeUnknown.
        """
        adapter = await self._reader.adapter(adapter_id)
        if adapter is None:
            raise UnknownAdapter(f"adapter {adapter_id} is not registered, or not confirmed yet")
        words = list(share_words(Share(*row) for row in adapter.shares))
        call = Call("Settlement", "distribute", (adapter_id, words))
        return require_settled(
            await self._writer.submit(call), f"distributing adapter {adapter_id}'s royalties"
        )

    async def collect(self, account: Address | None = None) -> Transaction:
        """Send an account's balance (this node's own by default) to it or its payout address."""
        call = Call("Settlement", "collect", (account or self._writer.address,))
        return require_settled(await self._writer.submit(call), "collecting")

    async def _finish_settled(self) -> int:
        """Close the rows whose end the chain has confirmed; return how many."""
        settled = 0
        totals: dict[Address, Units] = {}
        for row in await self._ledger.frozen():
            if row.signer not in totals:
                channel = await self._reader.channel(row.signer, self._writer.address)
                totals[row.signer] = channel.settled_units if channel else 0
            if totals[row.signer] >= row.end_units:
                await self._ledger.finish(row.claim_id, "settled", "")
                settled += 1
                _log.info("row settled", signer=row.signer, units=row.end_units - row.base_units)
        return settled

    async def _freeze(self, *, force: bool, only: Address | None) -> int:
        """Freeze the vouchers that are due; return how many."""
        now_s = self._clock.now_s()
        due = [channel for channel in await self._ledger.channels() if _value_of(channel)]
        if not self._knows_closing:
            await self._learn_closing(due)
        # A voucher replaces the one before it, so its own time says nothing of the money's age.
        self._due_since = {
            channel.signer: self._due_since.get(channel.signer, channel.voucher_at)
            for channel in due
        }
        if only is not None:
            chosen: Sequence[ChannelRecord] = [each for each in due if each.signer == only]
        else:
            chosen = self._choose(due, now_s, force=force)
        frozen = 0
        for channel in chosen:
            row = await self._ledger.freeze(channel.signer, now_s=now_s)
            if row is not None:
                frozen += 1
                self._closing.discard(row.signer)
                self._due_since.pop(row.signer, None)
                _log.info("row frozen", signer=row.signer, units=row.end_units - row.base_units)
        return frozen

    async def _learn_closing(self, due: Sequence[ChannelRecord]) -> None:
        """After a restart, ask the chain whose payers are leaving: requests are reported once."""
        for channel in due:
            found = await self._reader.channel(
                channel.signer, self._writer.address, confirmed=False
            )
            if found is not None and found.close_at:
                self._closing.add(channel.signer)
        self._knows_closing = True

    def _choose(
        self, due: Sequence[ChannelRecord], now_s: int, *, force: bool
    ) -> Sequence[ChannelRecord]:
        """Return the channels to claim now: all that pay for their row once one reason holds."""
        if force:
            return due
        row_cost = self._policy.cost_units(ROW_GAS)
        worth = [channel for channel in due if _value_of(channel) > row_cost]
        closing = [channel for channel in worth if channel.signer in self._closing]
        total = sum(_value_of(channel) for channel in worth)
        cost = self._policy.cost_units(CLAIM_GAS + ROW_GAS * len(worth))
        oldest = min((self._due_since[channel.signer] for channel in worth), default=now_s)
        aged = now_s - oldest >= self._policy.claim_age_s
        affordable = cost * BPS <= total * self._policy.max_gas_bps
        if (total >= self._policy.claim_at_units and affordable) or (aged and total > cost):
            return worth
        return closing

    async def _judge(self, rows: Sequence[ClaimRecord]) -> tuple[list[ClaimRecord], int]:
        """Ask the chain how it would judge the rows; return the good ones, and how many fell."""
        good: list[ClaimRecord] = []
        dropped = 0
        for part in batches(rows):
            call = Call("Settlement", "previewClaim", (self._writer.address, _packed(part)))
            for row, code in zip(part, await self._reader.read(call), strict=True):
                status = RowStatus(code)
                if status is RowStatus.GOOD:
                    good.append(row)
                elif status in _WAITING:
                    self._tell_waiting(row, status)
                else:
                    dropped += 1
                    await self._ledger.finish(row.claim_id, "dropped", status.name)
                    _log.error(
                        "row dropped",
                        signer=row.signer,
                        status=status.name,
                        lost_units=row.end_units - row.base_units,
                    )
        return good, dropped

    def _tell_waiting(self, row: ClaimRecord, status: RowStatus) -> None:
        # Also the ordinary state of a row that is mined and not yet confirmed: said once.
        if row.claim_id not in self._told:
            self._told.add(row.claim_id)
            _log.info("row waits", signer=row.signer, status=status.name, base=row.base_units)

    async def _send_all(self, rows: Sequence[ClaimRecord]) -> list[Transaction]:
        """Send the rows in batches, a refused batch in halves; raise when none could be sent."""
        open_parts = deque(batches(rows))
        sent: list[Transaction] = []
        refused: TransactionFailed | None = None
        splits = 0
        while open_parts:
            part = open_parts.popleft()
            try:
                sent.append(await self._send(part))
            except TransactionFailed as error:
                refused = error
                _log.warning("claim refused", rows=len(part), reason=error.detail)
                if len(part) > 1 and splits < MAX_SPLITS:
                    splits += 1
                    half = len(part) // 2
                    open_parts.extendleft((part[half:], part[:half]))
        if refused is not None and not sent:
            raise refused
        return sent

    async def _send(self, rows: Sequence[ClaimRecord]) -> Transaction:
        sent = await self._writer.submit(Call("Settlement", "claim", (_packed(rows),)))
        _log.info(
            "claim sent",
            rows=len(rows),
            outcome=sent.outcome.value,
            transaction=hex_of(sent.hash),
            gas=sent.gas_used,
        )
        if sent.outcome is Outcome.FAILED:
            self._hold_until_s = self._clock.now_s() + HOLD_AFTER_FAILURE_S
            _log.error("claim failed on chain", reason=sent.error, transaction=hex_of(sent.hash))
        return sent


def batches(rows: Sequence[ClaimRecord]) -> Iterator[Sequence[ClaimRecord]]:
    """Yield the rows in order, in runs that fit one transaction; a run has at least one row."""
    start = lines = size = 0
    for at, row in enumerate(rows):
        row_bytes = ROW_HEAD_BYTES + LINE_BYTES * len(row.lines)
        full = (
            at - start >= MAX_ROWS
            or lines + len(row.lines) > MAX_BATCH_LINES
            or size + row_bytes > MAX_BATCH_BYTES
        )
        if at > start and full:
            yield rows[start:at]
            start, lines, size = at, 0, 0
        lines += len(row.lines)
        size += row_bytes
    if start < len(rows):
        yield rows[start:]


def _value_of(channel: ChannelRecord) -> Units:
    return sum(channel.unclaimed().values()) if channel.signature else 0


def _packed(rows: Sequence[ClaimRecord]) -> bytes:
    return pack_rows(
        SignedVoucher(
            row.base_units,
            row.receipts_head,
            tuple(UsageLine(*line) for line in row.lines),
            row.signature,
        )
        for row in rows
    )
