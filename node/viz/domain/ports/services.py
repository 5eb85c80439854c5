"""Define what payments and the market use of the services above them.

``viz.services.payments`` and ``market`` are below ``settlement``, ``serving`` and ``training``, so
they cannot import from them.
``viz.composition`` gives it the real ones.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from viz.domain.units import AdapterId, Address, ContentId


class Claimer(Protocol):
    """Claims vouchers on the chain. Implemented by ``ClaimService``."""

    def close_requested(self, signer: Address) -> None: ...

    async def claim(self, signer: Address) -> object:
        """Claim everything unclaimed of this signer's channel, and of no other."""
        ...


class KnownAdapters(Protocol):
    """Tells the ids of the adapters that a voucher may pay for. Implemented by ``Catalogue``."""

    @property
    def known(self) -> Container[AdapterId]: ...


@dataclass(frozen=True, slots=True)
class AdapterEnd:
    """Why an adapter ended for good: the work, since when, and the time of its retirement."""

    content_id: ContentId
    reason: str
    since_s: int
    ended_s: int


class OfferedAdapters(Protocol):
    """The adapters that a node sells, or sold. Implemented by ``Catalogue``."""

    def adapter_ids(self) -> Sequence[AdapterId]: ...

    def ended(self) -> Mapping[AdapterId, AdapterEnd]:
        """Return the adapters that ended here, also those that were dropped since."""
        ...

    async def end(self, adapter_id: AdapterId, end: AdapterEnd) -> None:
        """Unload an adapter for good; later requests for it are told why."""
        ...


class TrainingRuns(Protocol):
    """The trainings of a node. Implemented by ``TrainingQueue``."""

    async def under_way(self) -> Mapping[str, Sequence[ContentId]]:
        """Return the works of each run that has not ended."""
        ...

    async def works_used(self) -> frozenset[ContentId]:
        """Return the works of all runs, also of those that have ended."""
        ...

    async def stop(self, training_id: str, reason: str) -> None:
        """Stop a run for good, and keep the reason in its record."""
        ...
