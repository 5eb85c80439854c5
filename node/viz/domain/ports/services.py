"""Define what payments uses of the services above it.

``viz.services.payments`` is below ``settlement`` and ``serving``, so it cannot import from them.
``viz.composition`` gives it the real ones.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from viz.domain.units import AdapterId, Address


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
