"""Find and destroy the listing of a withdrawn work: its sample is a text of the work.

Implements ``WorkHolder`` (viz.domain.ports.holdings). The listing ends with the withdrawal in every
class, since nobody can license the work any more; grants and adapters do not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from viz.domain.destruction import LISTING, HeldItem
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.ports.listings import ListingLedger


class ErasableListings(ListingLedger, Protocol):
    """Listings whose earlier content can be erased."""

    async def leave_no_trace(self) -> None: ...


class ListingHoldings:
    """The listings that one node keeps."""

    def __init__(self, ledger: ErasableListings) -> None:
        self._ledger = ledger

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return the work's listing, if it is here."""
        if not ended.listing or await self._ledger.listing(ended.content_id) is None:
            return WorkHoldings()
        return WorkHoldings((HeldItem(LISTING, str(int(ended.content_id))),))

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Delete the listing, and its text from the ledger's files."""
        if not any(item.kind == LISTING for item in items):
            return
        record = await self._ledger.listing(ended.content_id)
        if record is not None:
            await self._ledger.drop_listing(record)
        await self._ledger.leave_no_trace()
