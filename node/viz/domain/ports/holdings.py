"""Define the parts of a node that store data of works, as destruction uses them.

Each part that stores bytes or keys of works implements ``WorkHolder``, and ``viz.composition``
lists all of them: exactly their data is destroyed when a work's use ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.units import AdapterId, ContentId


@dataclass(frozen=True, slots=True)
class EndedUse:
    """A work whose use has ended at this node: it was withdrawn, or its owner ended the custody.

    ``adapters`` ended because of it. ``own``: the node's own grant has ended too, so what it has as
    a trainer (runs, copies of the work) is destroyed as well. ``custody``: a custodian's blob and
    key are destroyed, since no grant permits the key any more or, with ``by_owner``, because the
    owner asks for it and may hand the work over again. ``named_files``: the operator wants work
    files destroyed wherever trainings named them. ``listing``: only the owner's listing of the
    work, which ends with any withdrawal.
    """

    content_id: ContentId
    adapters: frozenset[AdapterId] = frozenset()
    own: bool = False
    custody: bool = False
    named_files: bool = False
    by_owner: bool = False
    listing: bool = False


@dataclass(frozen=True, slots=True)
class WorkHoldings:
    """What a holder has of a work: ``items`` to destroy, ``left`` to keep, with the reasons."""

    items: tuple[HeldItem, ...] = ()
    left: tuple[LeftItem, ...] = field(default=())


class WorkHolder(Protocol):
    """A part of a node that stores data of works: files, blobs, keys."""

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return what is stored of a work whose use has ended; changes nothing."""
        ...

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Destroy these items of ``holdings`` permanently; ignore items that are already gone.

        Items of other holders are ignored. Raises StorageError, StoreError, OSError, possibly
        after some of the items have been destroyed.
        """
        ...
