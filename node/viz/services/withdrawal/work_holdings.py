"""Find and destroy a work that this node opened under its grant, and one in its custody.

Implements ``WorkHolder`` (viz.domain.ports.holdings). The opened work goes with the node's own
grant. Blob and key in custody go when nobody's grant permits the key any more (others' grants may
outlast the node's own), or when the owner ends the custody: then the blob is erased and not denied,
since it may come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from viz.domain.destruction import PLACE_IN_CUSTODY as RECORD
from viz.domain.destruction import SEALED_WORK as SEALED
from viz.domain.destruction import SEALED_WORK_KEY as KEY
from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.ports.blobs import DeniableStore
from viz.domain.ports.custody import CustodyLedger, CustodyRecord, KeyStore
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.units import Cid
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.withdrawal.held_blobs import stored

OPENED: Final = "opened work"
_LICENSED: Final = "in custody for others, whose grants to the work are still live"


class WorkHoldingsHere:
    """The opened works of one node, and the sealed works in its custody with their keys."""

    def __init__(
        self, ledger: CustodyLedger, blobs: DeniableStore, keys: KeyStore, works: LicensedWorks
    ) -> None:
        self._ledger, self._blobs, self._keys, self._works = ledger, blobs, keys, works

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return the opened work, and the sealed one with its key if they are in custody here."""
        found, left = list[HeldItem](), list[LeftItem]()
        if ended.own and await self._works.has_any_of(ended.content_id):
            found.append(HeldItem(OPENED, str(int(ended.content_id))))
        record = await self._ledger.custody(ended.content_id)
        if record is not None and (ended.own or ended.custody):
            why = await self._other(record) if ended.custody else _LICENSED
            for each in await self._sealed(record.cid):
                if why is None:
                    found.append(each)
                else:
                    left.append(LeftItem(each.kind, each.name, why))
            if ended.custody:
                found.append(HeldItem(RECORD, str(int(ended.content_id))))
        return WorkHoldings(tuple(sorted(found)), tuple(sorted(left)))

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Destroy the key first: without it the sealed work that others have stays sealed.

        The record goes last, since it tells where key and blob are.
        """
        for item in items:
            if item.kind == KEY:
                await self._keys.destroy(Cid(item.name))
        for item in items:
            if item.kind == SEALED and ended.by_owner:
                await self._blobs.erase(Cid(item.name))
            elif item.kind == SEALED:
                await self._blobs.deny(Cid(item.name), f"work {ended.content_id} was withdrawn")
            elif item.kind == OPENED:
                await self._works.forget(ended.content_id)
        if any(item.kind == RECORD for item in items):
            await self._ledger.drop_custody(ended.content_id)

    async def _other(self, record: CustodyRecord) -> str | None:
        """Return why a blob stays although the custody of its work ended; None if it may go.

        Whoever sold a work can register a twin, hand the same blob over, and withdraw the twin.
        """
        for other in await self._ledger.works_under(record.cid):
            if other != record.content_id:
                return f"work {other}, in custody here too, has the same bytes"
        return None

    async def _sealed(self, cid: Cid) -> list[HeldItem]:
        found = []
        if await self._keys.has(cid):
            found.append(HeldItem(KEY, cid))
        if await stored(self._blobs, cid):
            found.append(HeldItem(SEALED, cid))
        return found
