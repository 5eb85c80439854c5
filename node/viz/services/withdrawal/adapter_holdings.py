"""Find and destroy what a node keeps of adapters that ended: plain weights, blobs, and keys.

Implements ``WorkHolder`` (viz.domain.ports.holdings) and ``KeptAdapters``. Invariants: bytes that a
licensed adapter on offer has as well are left, and named; nothing of a work in custody is touched.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.ports.blobs import DeniableStore
from viz.domain.ports.custody import CustodyLedger, KeyStore
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.ports.ledger import AdapterCatalogue
from viz.domain.units import Cid, Hash32
from viz.services.withdrawal.held_blobs import stored

WEIGHTS: Final = "weights"
BLOB: Final = "blob"
KEY: Final = "key of the sealed weights"
_DIGEST: Final = re.compile(r"([0-9a-f]{64})\.safetensors", re.ASCII)


class AdaptersInCustody(AdapterCatalogue, CustodyLedger, Protocol):
    """What is read of the ledger: adapters, and which blobs are works in custody."""


class AdapterHoldings:
    """The weights of adapters, by the digest of their plain bytes and by their CID."""

    def __init__(
        self, ledger: AdaptersInCustody, blobs: DeniableStore, keys: KeyStore, adapters_dir: Path
    ) -> None:
        self._ledger, self._blobs, self._keys = ledger, blobs, keys
        self._folder = adapters_dir

    async def kept_weights(self) -> Sequence[Hash32]:
        """Return the digests of the weights here, except those of adapters that ended."""
        over = {each.weights_digest for each in await self._ledger.ended()}
        return [each for each in await asyncio.to_thread(self._on_disk) if each not in over]

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return the weights and blobs of the adapters that ended with the work."""
        gone = await self._ledger.ended()
        return await self.of_weights(
            (each.weights_digest, each.cid) for each in gone if each.adapter_id in ended.adapters
        )

    async def of_weights(self, pairs: Iterable[tuple[Hash32, Cid | None]]) -> WorkHoldings:
        """Return what this node stores of weights with these digests and CIDs."""
        over = {each.adapter_id for each in await self._ledger.ended()}
        sold = [each for each in await self._ledger.adapters() if each.adapter_id not in over]
        items, left = set[HeldItem](), set[LeftItem]()
        for digest, named in pairs:
            cid = named if named is not None and not await self._of_a_work(named) else None
            found = []
            if await asyncio.to_thread(self._path(digest.hex()).exists):
                found.append(HeldItem(WEIGHTS, digest.hex()))
            if cid is not None and await stored(self._blobs, cid):
                found.append(HeldItem(BLOB, cid))
            if cid is not None and await self._keys.has(cid):
                found.append(HeldItem(KEY, cid))
            same = next((each for each in sold if each.weights_digest == digest), None)
            if same is None:
                items.update(found)
                continue
            why = f"adapter {same.adapter_id}, which is licensed, has the same bytes"
            left.update(LeftItem(each.kind, each.name, why) for each in found)
        return WorkHoldings(tuple(sorted(items)), tuple(sorted(left)))

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Destroy keys first: without a key, the copies at other nodes stay sealed."""
        for item in items:
            if item.kind == KEY:
                await self._keys.destroy(Cid(item.name))
        for item in items:
            if item.kind == WEIGHTS:
                await asyncio.to_thread(self._path(item.name).unlink, missing_ok=True)
            elif item.kind == BLOB:
                await self._blobs.deny(Cid(item.name), f"work {ended.content_id} was withdrawn")

    async def _of_a_work(self, cid: Cid) -> bool:
        """Return whether a CID is that of a sealed work in custody.

        Anybody may register an adapter under any CID: that must not cost a custodian its keys.
        """
        return bool(await self._ledger.works_under(cid))

    def _on_disk(self) -> list[Hash32]:
        names = self._folder.glob("*.safetensors") if self._folder.is_dir() else ()
        found = (_DIGEST.fullmatch(path.name) for path in names)
        return sorted(Hash32(bytes.fromhex(each[1])) for each in found if each)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
