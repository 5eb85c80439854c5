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
from viz.domain.units import ContentId


class ErasableListings(ListingLedger, Protocol):
    """Listings whose earlier content can be erased."""

    async def leave_no_trace(self) -> None: ...


class ListingHoldings:
    """The listings that one node keeps."""

    def __init__(self, ledger: ErasableListings) -> None:
        self._ledger = ledger
        # Works whose listing is deleted, and its text not yet from the ledger's files. After a
        # restart the list of the begun destruction has them.
        self._traced: set[ContentId] = set()

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return the work's listing, if it is here."""
        work = ended.content_id
        if not ended.listing:
            return WorkHoldings()
        if work not in self._traced and await self._ledger.listing(work) is None:
            return WorkHoldings()
        return WorkHoldings((HeldItem(LISTING, str(int(work))),))

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Delete the listing, and its text from the ledger's files."""
        if not any(item.kind == LISTING for item in items):
            return
        self._traced.add(ended.content_id)
        record = await self._ledger.listing(ended.content_id)
        if record is not None:
            await self._ledger.drop_listing(record)
        await self._ledger.leave_no_trace()
        self._traced.discard(ended.content_id)
