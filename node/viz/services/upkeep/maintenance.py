"""Delete expired rows: the bodies of old answers, and expired access tokens.

Invariant: money and receipts are never deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ExpiringLedger
from viz.services.upkeep.supervision import periodically

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Deletes at an interval; answers under an idempotency key stay for ``answers_kept_s``.

    That is the lifetime of an access token. After it, the client cannot use the token to ask for
    the answer again.
    """

    ledger: ExpiringLedger
    clock: Clock
    answers_kept_s: int = 3_600
    interval_s: float = 600.0

    async def run(self) -> None:
        """Delete expired rows every ``interval_s`` seconds, until cancelled."""
        await periodically(
            self.step, self.interval_s, _log.warning, "expired rows were not deleted"
        )

    async def step(self) -> tuple[int, int]:
        """Delete once; return the numbers of deleted answer bodies and access tokens."""
        now_s = self.clock.now_s()
        answers = await self.ledger.forget_answers(now_s - self.answers_kept_s)
        return answers, await self.ledger.forget_access(now_s)
