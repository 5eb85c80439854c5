"""Decide when a claim is worth its gas, and divide rows into transactions.

Owns the gas model of ``Settlement.claim``, the policy, and the choice of channels. Pure: channels,
fees and deadlines are arguments. The value of a claim is its gross amount: the node also pays the
gas for the part that the works' creators earn.

Invariant: no channel is chosen whose value is below the cost of its own row, and no claim whose
value is below its cost.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from viz.domain.claim_rows import ROW_HEAD_BYTES, SignedVoucher, pack_rows
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.ports.settlement_ledger import ClaimRecord
from viz.domain.units import BPS, WEI_A_COIN, AdapterId, Address, Units
from viz.domain.usage import LINE_BYTES, UsageLine

# From docs/gas.md, the rows "Settlement.claim RxL, steady, the batch", each rounded up. A line for
# an adapter that is already in the batch: (100x10 - 100x1 - 9 adapters) / 900. An adapter's first
# line: (1x10 - 1x1) / 9, minus that. A row: (100x1 - 10x1) / 90, minus a line. The rest of 1x1 is
# paid once per claim. The very first claim of a node or an adapter costs up to 2.7 times as much.
CLAIM_GAS: Final = 31_500
ROW_GAS: Final = 12_800
ADAPTER_GAS: Final = 20_400
LINE_GAS: Final = 230
# Before a deadline (usually a day away) a claim waits for a lower fee until this much time is left.
# It is enough for some hours of congestion, the pause after a failed claim, or an unreachable
# endpoint.
LAST_CALL_S: Final = 6 * 3_600
MAX_ROWS: Final = 200
# A row holds up to 255 lines, and Ethereum nodes refuse transactions above 128 KiB.
MAX_BATCH_LINES: Final = 2_000
MAX_BATCH_BYTES: Final = 60_000
# Some chains take no transaction above 16,777,216 gas (EIP-7825), whatever a block may use. The
# model is for a claim that is not an adapter's first.
MAX_BATCH_GAS: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """When to claim. ``coin_units`` is the value of one native coin (10^18 wei) in token units.

    If it is 0, gas counts as free. ``max_gas_bps`` bounds the part of a claim's value that its gas
    may cost, but for vouchers that are old or near a deadline: these are claimed for any gain.
    """

    claim_at_units: Units
    claim_age_s: int
    interval_s: float = 5.0
    coin_units: Units = 0
    max_gas_bps: int = 500

    def cost_units(self, gas: int, fee_wei: int) -> Units:
        """Return the cost of this much gas at ``fee_wei`` per unit, rounded up."""
        return -(-gas * fee_wei * self.coin_units // WEI_A_COIN)


@dataclass(frozen=True, slots=True)
class ClaimContext:
    """The inputs of a choice besides the channels.

    ``deadlines`` are the chain times before which a channel must be claimed, because its payer
    requested a close or one of its adapters ends. ``since`` is when each channel's oldest unclaimed
    amount was signed.
    """

    now_s: int
    chain_now_s: int
    fee_wei: int
    deadlines: Mapping[Address, int]
    since: Mapping[Address, int]

    @property
    def pressing(self) -> frozenset[Address]:
        """The signers whose deadline is too near to wait for a lower fee."""
        last_s = self.chain_now_s + LAST_CALL_S
        return frozenset(each for each, at in self.deadlines.items() if at <= last_s)


def claim_gas(rows: Sequence[Collection[AdapterId]]) -> int:
    """Return the gas of one claim whose rows have these lines."""
    seen: set[AdapterId] = set()
    gas = CLAIM_GAS
    for lines in rows:
        gas += row_gas(lines, seen)
        seen |= set(lines)
    return gas


def row_gas(lines: Collection[AdapterId], seen: Container[AdapterId]) -> int:
    """Return the gas that a row adds to a claim that already has lines for the adapters ``seen``.

    The first line of an adapter writes its balance to storage. Later lines in the same transaction
    change it again, which costs far less.
    """
    new = sum(adapter_id not in seen for adapter_id in lines)
    return ROW_GAS + LINE_GAS * len(lines) + ADAPTER_GAS * new


def value_of(channel: ChannelRecord) -> Units:
    """Return the amount that a channel's best voucher would claim; 0 without a voucher."""
    return sum(channel.unclaimed().values()) if channel.signature else 0


def choose(
    due: Sequence[ChannelRecord], policy: ClaimPolicy, context: ClaimContext
) -> Sequence[ChannelRecord]:
    """Return the channels to claim now; empty if there is no reason to claim.

    The reasons are the total value, the age of the oldest unclaimed amount, or a deadline. Channels
    with a deadline wait for a fee within ``max_gas_bps`` until ``LAST_CALL_S`` is left. Then they
    are claimed alone or, if that would not pay, together with all others. Each pass decides again,
    with the fee of its time.
    """
    # First all channels together, because all rows of a transaction share its fixed gas. If only
    # the value is the reason, there is time, so gas must be a small part of it. If the age is the
    # reason, it has waited long enough, and any gain suffices.
    worth = _worthwhile(due, policy, context)
    value, cost = weigh(worth, policy, context.fee_wei)
    cheap = cost * BPS <= value * policy.max_gas_bps
    oldest = min((context.since[each.signer] for each in worth), default=context.now_s)
    aged = context.now_s - oldest >= policy.claim_age_s
    if (value >= policy.claim_at_units and cheap) or (aged and value > cost):
        return worth
    # Then the channels with a deadline alone: the others need not be claimed at today's fee.
    bound = [each for each in due if each.signer in context.deadlines]
    urgent = _worthwhile(bound, policy, context)
    urgent_value, urgent_cost = weigh(urgent, policy, context.fee_wei)
    if urgent and urgent_cost * BPS <= urgent_value * policy.max_gas_bps:
        return urgent
    # Near the deadline an expensive claim is better than none: after it the node gets nothing.
    last = [each for each in bound if each.signer in context.pressing]
    pressing = _worthwhile(last, policy, context)
    pressing_value, pressing_cost = weigh(pressing, policy, context.fee_wei)
    if pressing_value > pressing_cost:
        return pressing
    # The value does not cover a transaction's fixed gas, but it covers its own rows: claim all
    # channels together, so that the others cover the fixed gas.
    return worth if pressing and value > cost else ()


def _worthwhile(
    channels: Sequence[ChannelRecord], policy: ClaimPolicy, context: ClaimContext
) -> list[ChannelRecord]:
    """Return the channels whose value is above what they add to one claim's cost.

    Ordered by value, the highest first. The order matters: the first row with an adapter pays for
    writing its balance, and later rows do not. The most valuable channels can best pay for it.
    """
    chosen: list[ChannelRecord] = []
    seen: set[AdapterId] = set()
    for channel in sorted(channels, key=value_of, reverse=True):
        lines = channel.unclaimed().keys()
        if value_of(channel) > policy.cost_units(row_gas(lines, seen), context.fee_wei):
            chosen.append(channel)
            seen |= lines
    return chosen


def weigh(
    channels: Sequence[ChannelRecord], policy: ClaimPolicy, fee_wei: int
) -> tuple[Units, Units]:
    """Return the value and the cost of a claim of these channels."""
    gas = claim_gas([each.unclaimed().keys() for each in channels])
    return sum(map(value_of, channels)), policy.cost_units(gas, fee_wei)


def batches(rows: Sequence[ClaimRecord]) -> Iterator[Sequence[ClaimRecord]]:
    """Yield the rows in order, in batches that fit one transaction; each has at least one row."""
    start = lines = size = 0
    gas, seen = CLAIM_GAS, set[AdapterId]()
    for at, row in enumerate(rows):
        adapters = [adapter_id for adapter_id, _ in row.lines]
        row_bytes = ROW_HEAD_BYTES + LINE_BYTES * len(row.lines)
        full = (
            at - start >= MAX_ROWS
            or lines + len(row.lines) > MAX_BATCH_LINES
            or size + row_bytes > MAX_BATCH_BYTES
            or gas + row_gas(adapters, seen) > MAX_BATCH_GAS
        )
        if at > start and full:
            yield rows[start:at]
            start, lines, size = at, 0, 0
            gas, seen = CLAIM_GAS, set()
        gas += row_gas(adapters, seen)
        seen.update(adapters)
        lines += len(row.lines)
        size += row_bytes
    if start < len(rows):
        yield rows[start:]


def packed(rows: Sequence[ClaimRecord]) -> bytes:
    """Return the argument of ``Settlement.claim`` for these rows."""
    return pack_rows(
        SignedVoucher(
            row.base_units,
            row.receipts_head,
            tuple(UsageLine(*line) for line in row.lines),
            row.signature,
        )
        for row in rows
    )
