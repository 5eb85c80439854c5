"""Find and destroy a work that this node opened under its grant, and one in its own custody.

Implements ``WorkHolder`` (viz.domain.ports.holdings). Both are destroyed only when the node's own
use has ended: a node that is only a custodian keeps what the grants of others may still permit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from viz.domain.destruction import HeldItem
from viz.domain.ports.blobs import DeniableStore
from viz.domain.ports.custody import CustodyLedger, KeyStore
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.units import Cid
from viz.errors import BlobDenied, InvalidRequest
from viz.services.market.licensed_works import LicensedWorks

OPENED: Final = "opened work"
SEALED: Final = "sealed work"
KEY: Final = "key of the sealed work"


class WorkHoldingsHere:
    """The opened works of one node, and the sealed works in its custody with their keys."""

    def __init__(
        self, ledger: CustodyLedger, blobs: DeniableStore, keys: KeyStore, works: LicensedWorks
    ) -> None:
        self._ledger, self._blobs, self._keys, self._works = ledger, blobs, keys, works

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return the opened work, and the sealed one with its key if this node has custody."""
        if not ended.own:
            return WorkHoldings()
        found = []
        if await self._works.has(ended.content_id):
            found.append(HeldItem(OPENED, str(int(ended.content_id))))
        record = await self._ledger.custody(ended.content_id)
        if record is not None:
            if await self._keys.get(record.cid) is not None:
                found.append(HeldItem(KEY, record.cid))
            if await self._has(record.cid):
                found.append(HeldItem(SEALED, record.cid))
        return WorkHoldings(tuple(sorted(found)))

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Destroy the key first: without it, the copies at other nodes stay sealed."""
        for item in items:
            if item.kind == KEY:
                await self._keys.destroy(Cid(item.name))
        for item in items:
            if item.kind == SEALED:
                await self._blobs.deny(Cid(item.name), f"work {ended.content_id} was withdrawn")
            elif item.kind == OPENED:
                await self._works.forget(ended.content_id)

    async def _has(self, cid: Cid) -> bool:
        try:
            return await self._blobs.has(cid)
        except (BlobDenied, InvalidRequest):
            return False
