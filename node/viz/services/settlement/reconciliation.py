"""Compare the ledger's channels with the contract Settlement.

The comparison repairs nothing: the operator must. Until then, nothing is sold on the channel that
differs; the others are not affected (docs/adr/0010). Close requests that it finds are reported.

Invariants: nothing is written; one pass asks the chain about a bounded number of channels; no
failure of the chain or the ledger ends the loop; a difference counts only if two consecutive passes
found it, because a claim that settles between two readings looks like a difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from viz.domain.ports.chain import ChainReader, ChannelState
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.ports.settlement_ledger import ClaimRecord, ComparedLedger
from viz.domain.units import Address, Units
from viz.services.payments.channel_events import ChannelEvents
from viz.services.upkeep.supervision import periodically

CHANNELS_A_PASS: Final = 256
AT_ONCE: Final = 8
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One channel on which ledger and chain disagree.

    ``settled``: no claim row of the ledger begins or ends at the chain's settled total.
    ``covered``: the accepted amounts end above the sum of the chain's settled total and deposit.
    ``books_units`` is the ledger's amount.
    """

    signer: Address
    what: Literal["settled", "covered"]
    books_units: Units
    chain_units: Units


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of the last pass; ``compared_at_s`` is 0 before the first."""

    compared_at_s: int = 0
    channels: int = 0
    mismatches: tuple[Mismatch, ...] = ()


class Reconciliation:
    """Compares at an interval; ``mismatches`` are those that two consecutive passes found."""

    def __init__(
        self,
        ledger: ComparedLedger,
        chain: ChainReader,
        clock: Clock,
        node: Address,
        *,
        events: ChannelEvents,
        interval_s: float = 60.0,
        channels_a_pass: int = CHANNELS_A_PASS,
    ) -> None:
        self._ledger = ledger
        self._chain = chain
        self._clock = clock
        self._node = node
        self._interval_s = interval_s
        self._channels_a_pass = channels_a_pass
        self._events = events
        self._after: Address | None = None
        self._suspects: dict[Address, Mismatch] = {}
        self._found: dict[Address, Mismatch] = {}
        self.last = Comparison()

    @property
    def mismatches(self) -> Mapping[Address, Mismatch]:
        """Return the mismatches by signer: nothing is sold on these channels."""
        return self._found

    async def run(self) -> None:
        """Compare every ``interval_s``, until cancelled."""
        await periodically(
            self.step, self._interval_s, _log.warning, "ledger not compared with the chain"
        )

    async def step(self) -> Comparison:
        """Compare the next channels, and every suspect again. Raises ChainError, StoreError."""
        # Rows before channels: a row that is frozen in between then looks like a difference in this
        # pass only, not in the next.
        rows: dict[Address, list[ClaimRecord]] = {}
        for row in await self._ledger.frozen():
            rows.setdefault(row.signer, []).append(row)
        records = {record.signer: record for record in await self._ledger.channels()}
        chosen = self._choose(records)
        seen = await self._ask(chosen)
        for signer in chosen:
            state = seen[signer]
            if state is not None and state.close_at:
                self._events.close_seen.tell(signer)
            found = compare(records[signer], rows.get(signer, ()), state)
            self._note(signer, found)
        for signer in [each for each in self._found if each not in records]:
            del self._found[signer]
            self._events.mismatch_gone.tell(signer)
        self.last = Comparison(self._clock.now_s(), len(chosen), tuple(self._found.values()))
        return self.last

    def _choose(self, records: Mapping[Address, ChannelRecord]) -> list[Address]:
        """Return the suspects of the last pass, then the next channels in order of their signers.

        After the last signer it begins again with the first.
        """
        again = [each for each in sorted(self._suspects) if each in records]
        chosen = again[: self._channels_a_pass]
        others = sorted(records.keys() - set(chosen))
        start = next((n for n, each in enumerate(others) if each > (self._after or "")), 0)
        turn = (others[start:] + others[:start])[: self._channels_a_pass - len(chosen)]
        if turn:
            self._after = turn[-1]
        return chosen + turn

    async def _ask(self, signers: Sequence[Address]) -> dict[Address, ChannelState | None]:
        seen: dict[Address, ChannelState | None] = {}
        for start in range(0, len(signers), AT_ONCE):
            part = signers[start : start + AT_ONCE]
            states = await asyncio.gather(
                *(self._chain.channel(signer, self._node) for signer in part)
            )
            seen |= zip(part, states, strict=True)
        return seen

    def _note(self, signer: Address, found: Mismatch | None) -> None:
        before = self._suspects.pop(signer, None)
        if found is None:
            if self._found.pop(signer, None) is not None:
                self._events.mismatch_gone.tell(signer)
                _log.info("ledger and chain agree again", signer=signer)
            return
        self._suspects[signer] = found
        if before is not None and before.what == found.what and self._found.get(signer) != found:
            self._found[signer] = found
            self._events.mismatch_found.tell(signer)
            _log.error(
                "ledger and chain disagree",
                signer=signer,
                what=found.what,
                books_units=found.books_units,
                chain_units=found.chain_units,
            )


def compare(
    record: ChannelRecord, rows: Sequence[ClaimRecord], seen: ChannelState | None
) -> Mismatch | None:
    """Compare the ledger with the chain's confirmed state of a channel; return the difference.

    ``rows`` are its unfinished claim rows in order. Until they are finished, the chain's settled
    total may be any of their ends. Settled total and deposit together must cover what was accepted.
    """
    settled = seen.settled_units if seen else 0
    deposit = seen.deposit_units if seen else 0
    start = rows[0].base_units if rows else record.base_units
    if settled not in {start, *(row.end_units for row in rows)}:
        return Mismatch(record.signer, "settled", start, settled)
    end = record.base_units + (sum(record.unclaimed().values()) if record.signature else 0)
    if end > settled + deposit:
        return Mismatch(record.signer, "covered", end, settled + deposit)
    return None
