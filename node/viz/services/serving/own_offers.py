"""Describe this node's own offers in the form that ``Discovery`` uses for other nodes' offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from viz.domain.engines import Engines
from viz.domain.ports.clock import Clock
from viz.domain.units import Address
from viz.protocol.messages import ServedBase
from viz.services.market.discovery import NodeOffers
from viz.services.serving.catalogue import Catalogue


def own_offers(
    engines: Engines, catalogue: Catalogue, clock: Clock, *, node: Address, origin: str
) -> Callable[[], Sequence[NodeOffers]]:
    """Return a function that returns this node's current offers."""

    def offers() -> Sequence[NodeOffers]:
        first = engines.first_model
        own = NodeOffers(
            node,
            origin,
            ServedBase(first.digest, first.tokenizer_digest, first.context_tokens),
            catalogue.offers(),
            seen_at_s=clock.now_s(),
        )
        return (own,)

    return offers
