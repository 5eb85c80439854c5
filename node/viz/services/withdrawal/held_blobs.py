"""Ask whether a blob store has a blob, as destruction does."""

from __future__ import annotations

from viz.domain.ports.blobs import BlobStore
from viz.domain.units import Cid
from viz.errors import BlobDenied, InvalidRequest


async def stored(blobs: BlobStore, cid: Cid) -> bool:
    """Return whether the store has the blob; a denied blob and a CID that is none are not there."""
    try:
        return await blobs.has(cid)
    except (BlobDenied, InvalidRequest):
        return False
