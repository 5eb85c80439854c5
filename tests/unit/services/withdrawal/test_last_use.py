"""When custody of a withdrawn work ends: never by logs that are not complete."""

from __future__ import annotations

from typing import cast

import pytest
import structlog
from tests.fakes.chain import FakeChain, address_of

from viz.domain.ports.chain import ContentState
from viz.domain.ports.services import OfferedAdapters
from viz.domain.units import ZERO_HASH, Address, ContentId
from viz.errors import ChainError, ChainMismatch
from viz.services.withdrawal.last_use import FINAL_S, READ_AGAIN_S, LastUse

WITHDRAWN_AT = 1_000_000
WORK = ContentState(
    ContentId(3), address_of(1), address_of(1), ZERO_HASH, ZERO_HASH, withdrawn_at=WITHDRAWN_AT
)
FINAL = WITHDRAWN_AT + FINAL_S


class Incomplete(FakeChain):
    """A chain whose endpoint lacks logs until ``fault`` is None."""

    fault: ChainError | None = ChainError("the endpoint does not serve its event")
    asked = 0

    async def trainers_of(self, content_id: ContentId) -> tuple[Address, ...]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return await super().trainers_of(content_id)


@pytest.fixture
def chain() -> Incomplete:
    return Incomplete(b"\x1b" * 32)


def last_use(chain: FakeChain) -> LastUse:
    return LastUse(chain, cast(OfferedAdapters, None), address_of(2))  # custody asks for no offers


async def test_custody_goes_on_while_the_logs_lack_a_grant(chain: Incomplete) -> None:
    """The key of a trainer who paid is kept; the log says why, and the logs are read again later.
    Nothing else that ends with the withdrawal waits for it."""
    use = last_use(chain)
    with structlog.testing.capture_logs() as logs:
        assert await use.custody_end(WORK, FINAL) is None
        assert await use.custody_end(WORK, FINAL + READ_AGAIN_S - 1) is None
    assert chain.asked == len(logs) == 1 and logs[0]["log_level"] == "warning"
    assert "does not serve its event" in logs[0]["reason"]
    chain.fault = None
    assert await use.custody_end(WORK, FINAL + READ_AGAIN_S - 1) is None
    assert await use.custody_end(WORK, FINAL + READ_AGAIN_S) == FINAL
    assert await use.custody_end(WORK, FINAL + READ_AGAIN_S + 1) == FINAL and chain.asked == 2


async def test_another_chain_still_ends_the_node(chain: Incomplete) -> None:
    chain.fault = ChainMismatch("another chain answers")
    with pytest.raises(ChainMismatch):
        await last_use(chain).custody_end(WORK, FINAL)
