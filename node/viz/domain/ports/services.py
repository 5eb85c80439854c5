"""Define what payments and the market use of the services above them.

``viz.services.payments`` and ``market`` are below ``settlement``, ``serving`` and ``training``, so
they cannot import from them. ``viz.composition`` hands them the implementations.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from viz.domain.ports.chain import WeightsAddress
from viz.domain.units import AdapterId, Address, ContentId, Hash32


class Claimer(Protocol):
    """Claims vouchers on the chain. Implemented by ``ClaimService``."""

    def close_requested(self, signer: Address) -> None: ...

    async def claim(self, signer: Address) -> object:
        """Claim everything unclaimed of this signer's channel only."""
        ...


class KnownAdapters(Protocol):
    """Tells the ids of the adapters that a voucher may pay for. Implemented by ``Catalogue``."""

    @property
    def known(self) -> Container[AdapterId]: ...


@dataclass(frozen=True, slots=True)
class AdapterEnd:
    """Why an adapter ended: the work, since when, and the time of its retirement."""

    content_id: ContentId
    reason: str
    since_s: int
    ended_s: int


class OfferedAdapters(Protocol):
    """The adapters that a node sells or has sold. Implemented by ``Catalogue``."""

    def adapter_ids(self) -> Sequence[AdapterId]: ...

    def ended(self) -> Mapping[AdapterId, AdapterEnd]:
        """Return the ended adapters, also those that were dropped afterwards."""
        ...

    async def end(self, adapter: WeightsAddress, end: AdapterEnd) -> None:
        """Unload an adapter for good; later requests for it are told why.

        One that was dropped before is only noted, so that what is left of it is destroyed.
        """
        ...


class KeptAdapters(Protocol):
    """Tells what is still on this node of adapters. Implemented by ``AdapterHoldings``."""

    async def kept_weights(self) -> Sequence[Hash32]:
        """Return the digests of the weights on the disk, except those of adapters that ended.

        They are also of adapters that were dropped, or could not be loaded.
        """
        ...


class TrainingRuns(Protocol):
    """The trainings of a node. Implemented by ``TrainingQueue``."""

    async def under_way(self) -> Mapping[str, Sequence[ContentId]]:
        """Return the works of each unfinished run, by its id."""
        ...

    async def works_used(self) -> frozenset[ContentId]:
        """Return the works of all runs, finished ones included."""
        ...

    async def stop(self, training_id: str, reason: str) -> None:
        """Stop a run permanently, and store the reason in its record."""
        ...
