"""Send claim rows to the chain in batches; halve a refused batch, and pause after a failure.

Owns what is done when a claim is refused or fails. Whether rows are settled is read from the
chain's totals by the claim loop (docs/adr/0004).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container, Sequence
from typing import Final

import structlog

from viz.domain.ports.clock import Clock
from viz.domain.ports.settlement_ledger import ClaimRecord
from viz.domain.ports.transactions import Call, ChainWriter, Outcome, Transaction
from viz.domain.units import Address, hex_of
from viz.errors import FeeTooHigh, TransactionFailed
from viz.services.settlement.claim_policy import batches, packed

# A claim that failed in its block was good in the simulation just before. Something is wrong: do
# not pay its gas again in every pass.
HOLD_AFTER_FAILURE_S: Final = 300
# Eight splits find one bad row among MAX_ROWS.
MAX_SPLITS: Final = 16
_log = structlog.get_logger()


class ClaimSender:
    """Sends rows; ``held`` for a while after a claim that failed in its block."""

    def __init__(self, writer: ChainWriter, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._hold_until_s = 0
        # The last refusal that was told: one that stays is in every pass.
        self._told = ""

    @property
    def held(self) -> bool:
        """Whether the last failure is too recent to send again."""
        return self._clock.now_s() < self._hold_until_s

    async def send(
        self, rows: Sequence[ClaimRecord], *, pressing: Container[Address] = ()
    ) -> list[Transaction]:
        """Send the rows; while the fee is above the operator's bound, only those of ``pressing``.

        Raises TransactionFailed if no row could be sent, FeeTooHigh, ChainUnreachable.
        """
        try:
            return await self._send(rows, urgent=False)
        except FeeTooHigh:
            last = [row for row in rows if row.signer in pressing]
            if not last:
                raise
            return await self._send(last, urgent=True)

    async def _send(self, rows: Sequence[ClaimRecord], *, urgent: bool) -> list[Transaction]:
        open_parts = deque(batches(rows))
        sent: list[Transaction] = []
        refused: TransactionFailed | None = None
        splits = 0
        while open_parts:
            part = open_parts.popleft()
            try:
                sent.append(await self._claim(part, urgent=urgent))
            except FeeTooHigh:
                if not sent:
                    raise
                break  # the fee rose meanwhile: the other rows wait for the next pass
            except TransactionFailed as error:
                refused = error
                said = re.sub(r"\d+", "", error.detail)  # balance and fees differ
                if said != self._told:
                    _log.warning("claim refused", rows=len(part), reason=error.detail)
                    self._told = said
                if len(part) > 1 and splits < MAX_SPLITS:
                    splits += 1
                    half = len(part) // 2
                    open_parts.extendleft((part[half:], part[:half]))
        if refused is None:
            self._told = ""
        elif not sent:
            raise refused
        return sent

    async def _claim(self, rows: Sequence[ClaimRecord], *, urgent: bool) -> Transaction:
        call = Call("Settlement", "claim", (packed(rows),))
        sent = await self._writer.submit(call, urgent=urgent)
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
