"""Say what this node itself sells, in the form in which it learns what other nodes sell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import Engine
from viz.domain.units import Address
from viz.services.market.discovery import NodeOffers
from viz.services.serving.catalogue import Catalogue


def own_offers(
    engine: Engine, catalogue: Catalogue, clock: Clock, *, node: Address, origin: str
) -> Callable[[], Sequence[NodeOffers]]:
    """Return a function that says what this node itself sells now."""

    def offers() -> Sequence[NodeOffers]:
        base = engine.model
        own = NodeOffers(
            node,
            origin,
            base.name,
            base.digest,
            base.context_tokens,
            catalogue.offers(),
            seen_at_s=clock.now_s(),
        )
        return (own,)

    return offers
