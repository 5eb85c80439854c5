"""Find the offer that a model's name means.

Owns the two ways to name a model: by its id, and by the name that its node gives it. Invariant: a
name that could mean two adapters means none, because the name decides who is paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from viz.errors import UnknownModel
from viz.protocol.messages import AdapterOffer

NAMES_SHOWN: Final = 20


def find_offer(offers: Sequence[AdapterOffer], wanted: str) -> AdapterOffer | None:
    """Return the offer with this id, else the only offer with this name; None if there is none.

    Names are compared without regard to case. Raises UnknownModel if several offers have the name.
    """
    for offer in offers:
        if offer.model == wanted:
            return offer
    named = [offer for offer in offers if offer.name and _same(offer.name, wanted)]
    if len(named) > 1:
        models = ", ".join(offer.model for offer in named)
        raise UnknownModel(
            f"{wanted[:80]!r} is the name of several models: say which of {models}", param="model"
        )
    return named[0] if named else None


def unknown(offers: Sequence[AdapterOffer], wanted: str) -> UnknownModel:
    """Return the error for a model that is not on offer. It lists the models that are."""
    names = [
        offer.model if offer.name in ("", offer.model) else f"{offer.model} ({offer.name})"
        for offer in offers[:NAMES_SHOWN]
    ]
    if len(offers) > NAMES_SHOWN:
        names.append(f"{len(offers) - NAMES_SHOWN} more")
    return UnknownModel(
        f"the node does not serve {wanted[:80]!r}; it serves: {', '.join(names)}", param="model"
    )


def _same(name: str, wanted: str) -> bool:
    return name.strip().casefold() == wanted.strip().casefold()
