"""Ask whether a blob store has a blob, as destruction does."""

from __future__ import annotations

from viz.domain.ports.blobs import DeniableStore
from viz.domain.units import Cid
from viz.errors import InvalidRequest


async def stored(blobs: DeniableStore, cid: Cid) -> bool:
    """Return whether the store has the blob, denied or not; a CID that is none is not there."""
    try:
        return await blobs.keeps(cid)
    except InvalidRequest:
        return False
