"""Forgetting what need not be kept: old answers' bodies, expired access tokens.

Owns when. Invariant: money and receipts are never forgotten.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import structlog

from viz.domain.ports.clock import Clock
from viz.errors import StoreError

_log = structlog.get_logger()


class ExpiringLedger(Protocol):
    """A ledger that can forget."""

    async def forget_answers(self, before: int) -> int: ...

    async def forget_access(self, before: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Forgets at an interval; answers under an idempotency key stay for ``answers_kept_s``.

    That is an access token's life: who asked can show the token no longer, and ask again.
    """

    ledger: ExpiringLedger
    clock: Clock
    answers_kept_s: int = 3_600
    interval_s: float = 600.0

    async def run(self) -> None:
        """Forget again and again, until cancelled."""
        while True:
            try:
                await self.step()
            except StoreError as error:
                _log.warning("nothing was forgotten", reason=error.detail)
            await asyncio.sleep(self.interval_s)

    async def step(self) -> tuple[int, int]:
        """Forget once; return how many answers' bodies and how many tokens went."""
        now_s = self.clock.now_s()
        answers = await self.ledger.forget_answers(now_s - self.answers_kept_s)
        return answers, await self.ledger.forget_access(now_s)
