"""Define what destruction uses of the parts of a node that keep something of a work.

Each part that keeps bytes or keys of works implements ``WorkHolder``, and ``viz.composition`` lists
them all: nothing else is destroyed when a work's use ends, and nothing of these parts is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.units import AdapterId, ContentId


@dataclass(frozen=True, slots=True)
class EndedUse:
    """A withdrawn work whose use has ended at this node.

    ``adapters`` ended because of it. ``own``: the node's own grant ended as well, so that what it
    made as a trainer (its runs, its copies of the work) goes with it. ``named_files``: the
    operator wants work files destroyed wherever its trainings named them.
    """

    content_id: ContentId
    adapters: frozenset[AdapterId] = frozenset()
    own: bool = False
    named_files: bool = False


@dataclass(frozen=True, slots=True)
class WorkHoldings:
    """What a part has of a work: ``items`` are destroyed, ``left`` are not, with the reason."""

    items: tuple[HeldItem, ...] = ()
    left: tuple[LeftItem, ...] = field(default=())


class WorkHolder(Protocol):
    """A part of a node that keeps something of works: files, blobs, keys."""

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return what is here of a work whose use has ended; reads only."""
        ...

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Destroy these items of ``holdings`` for good; one that is gone already is no error.

        Items of other holders are ignored. Raises StorageError, StoreError, OSError; what it
        destroyed until then stays destroyed.
        """
        ...
