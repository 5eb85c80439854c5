"""Acquire the grants that this node needs as a trainer, and show the terms of works.

Invariants: an allowance of the node's tokens does not outlive the call that needed it; a fee is
paid only for the terms hash that the operator agreed to.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from viz.domain.license import Terms
from viz.domain.ports.chain import ChainReader, ContentState, GrantState
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.units import ContentId, Hash32, Units, hex_of
from viz.errors import ChainError, ChainUnreachable, LicenseError


@dataclass(frozen=True, slots=True)
class LicenseOffer:
    """The terms on which a work is licensed now."""

    content: ContentState
    terms: Terms
    license_hash: Hash32


class Grants:
    """Shows what works are licensed for, and buys grants for the node's own key."""

    def __init__(self, reader: ChainReader, writer: ChainWriter) -> None:
        self._reader = reader
        self._writer = writer
        # One fee at a time: concurrent payments would spend each other's allowance.
        self._paying = asyncio.Lock()

    async def offer(self, content_id: ContentId) -> LicenseOffer:
        """Return a work and its terms for new grants; raise LicenseError if there are none.

        Raises ChainUnreachable, also if the endpoint does not know the terms.
        """
        content = await self._reader.content(content_id)
        if content is None:
            raise LicenseError(f"there is no work {content_id}: check the id")
        if content.withdrawn_at:
            raise LicenseError(f"work {content_id} was withdrawn: it grants no new licenses")
        found = await self._reader.terms(content.terms_hash)
        if found is None:
            raise ChainUnreachable(
                f"the chain's endpoint does not know the terms {hex_of(content.terms_hash)} of "
                f"work {content_id}: try again, or use another endpoint (chain.rpc_url)"
            )
        return LicenseOffer(content, found.terms, found.license_hash)

    async def agreed(
        self,
        content_id: ContentId,
        *,
        expected_terms: Hash32 | None = None,
        max_fee_units: Units | None = None,
    ) -> LicenseOffer:
        """Return the offer; raise LicenseError if it is not what the operator agreed to."""
        offer = await self.offer(content_id)
        terms_hash = offer.content.terms_hash
        if expected_terms is not None and expected_terms != terms_hash:
            raise LicenseError(
                f"work {content_id} is offered on other terms now (0x{terms_hash.hex()}): read "
                "and accept them first"
            )
        fee = offer.terms.training_fee_units
        if max_fee_units is not None and fee > max_fee_units:
            raise LicenseError(
                f"work {content_id} has a training fee of {fee} units, above the limit of "
                f"{max_fee_units}: raise the limit if you agree to the fee"
            )
        return offer

    async def held(self, offer: LicenseOffer) -> GrantState | None:
        """Return the node's own live grant on the offered terms; None if it has none."""
        held = await self._reader.grant(offer.content.content_id, self._writer.address)
        same = held is not None and held.terms_hash == offer.content.terms_hash
        return held if held is not None and held.live and same else None

    async def acquire(
        self,
        content_id: ContentId,
        *,
        expected_terms: Hash32 | None = None,
        max_fee_units: Units | None = None,
    ) -> GrantState:
        """Buy a grant for the node's own key and return it; return a live grant without buying.

        ``expected_terms`` is the hash of the terms that the operator read. Without it, the offered
        terms are accepted if the fee is at most ``max_fee_units``. Raises LicenseError, and
        ChainError (such as TransactionFailed, or if the endpoint does not show the grant yet).
        """
        async with self._paying:
            offer = await self.agreed(
                content_id, expected_terms=expected_terms, max_fee_units=max_fee_units
            )
            terms_hash, fee = offer.content.terms_hash, offer.terms.training_fee_units
            if (held := await self.held(offer)) is not None:
                return held
            await self._pay_and_acquire(content_id, terms_hash, fee)
            grant = await self._reader.grant(content_id, self._writer.address)
            if grant is None:
                raise ChainError(
                    f"the grant for work {content_id} was acquired, but the endpoint does not show "
                    "it yet: try again"
                )
            return grant

    async def _pay_and_acquire(self, content_id: ContentId, terms_hash: Hash32, fee: Units) -> None:
        registry = self._reader.deployment.content_registry
        acquire = Call("ContentRegistry", "acquireGrant", (content_id, terms_hash))
        if not fee:
            (await self._writer.submit(acquire)).require_mined("acquiring the grant")
            return
        approve = Call("Token", "approve", (registry, fee))
        (await self._writer.submit(approve)).require_mined("approving the training fee")
        try:
            (await self._writer.submit(acquire)).require_mined("acquiring the grant")
        except BaseException:
            # The grant was not acquired, so the allowance is still there. Revoke it, even if this
            # task is cancelled.
            revoke = Call("Token", "approve", (registry, 0))
            await asyncio.shield(self._writer.submit(revoke, urgent=True))
            raise
