"""The listing of a withdrawn work is gone when its text is out of the ledger's files too."""

from __future__ import annotations

from typing import Any

import pytest

from viz.domain.destruction import LISTING, HeldItem
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.units import ContentId
from viz.errors import StoreError
from viz.services.withdrawal.listing_holdings import ListingHoldings

WORK = ContentId(3)
ITEM = HeldItem(LISTING, "3")


class Ledger:
    """A ledger whose log cannot be emptied while ``busy``."""

    record: Any = "a listing"
    busy = True

    async def listing(self, content_id: ContentId) -> Any:
        return self.record

    async def drop_listing(self, record: Any) -> None:
        self.record = None

    async def leave_no_trace(self) -> None:
        if self.busy:
            raise StoreError("the ledger is read or written, so its log cannot be emptied")


async def test_a_listing_in_the_ledgers_log_is_not_destroyed_yet() -> None:
    """A certificate said that it was, and nothing tried again."""
    ledger: Any = Ledger()
    holder, ended = ListingHoldings(ledger), EndedUse(WORK, listing=True)
    assert await holder.holdings(ended) == WorkHoldings((ITEM,))
    with pytest.raises(StoreError):
        await holder.destroy(ended, [ITEM])
    assert await holder.holdings(ended) == WorkHoldings((ITEM,))
    ledger.busy = False
    await holder.destroy(ended, [ITEM])
    assert await holder.holdings(ended) == WorkHoldings()
    ledger.record = "another"
    assert await holder.holdings(EndedUse(WORK)) == WorkHoldings()
