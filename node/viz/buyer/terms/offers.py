"""Find the offer that a model's name means.

Owns the ways to name a model: by its id, by the name that its node gives it, and a base model by
``NAME@DIGEST`` too; and the key by which a buyer's records name it. Invariant: a name that could
mean two adapters means none, because the name decides who is paid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from viz.domain.units import BASE_MODEL, AdapterId
from viz.errors import UnknownModel
from viz.protocol.messages import AdapterOffer, adapter_named

NAMES_SHOWN: Final = 20
ASKED_CHARS: Final = 256
# So many hex digits of a base model's digest are shown after its name, and at least so many named.
DIGEST_DIGITS: Final = 12
_REFERENCE: Final = re.compile(
    rf"(.+)@(?:0x)?([0-9a-f]{{{DIGEST_DIGITS},64}})", re.DOTALL | re.IGNORECASE
)
T = TypeVar("T")
# The key of records about the base model that were kept when a node had only one.
ONE_BASE_KEY: Final = str(BASE_MODEL)


def record_key(adapter_id: AdapterId, model: str) -> str:
    """Return the key of a buyer's records about an offer: its adapter's id.

    All base models have the id 0, so that the key of a base model has its name too.
    """
    return str(adapter_id) if adapter_id != BASE_MODEL else f"{ONE_BASE_KEY}:{model}"


def kept_for(records: Mapping[str, T], adapter_id: AdapterId, model: str) -> T | None:
    """Return the record about an offer; None if there is none.

    A record of the time when a node had one base model holds for each of them that has none.
    """
    kept = records.get(record_key(adapter_id, model))
    return records.get(ONE_BASE_KEY) if kept is None and adapter_id == BASE_MODEL else kept


def is_record_key(key: str) -> bool:
    """Return whether ``record_key`` makes such a key, or made it before."""
    number = key.partition(":")[0] if key.startswith(f"{ONE_BASE_KEY}:") else key
    return number.isascii() and number.isdecimal()


def as_reference(wanted: str) -> tuple[str, str] | None:
    """Return the name and the first digits of the digest in ``NAME@DIGEST``; None for a name."""
    found = _REFERENCE.fullmatch(wanted.strip())
    return (found[1], found[2].lower()) if found else None


def find_offer(offers: Sequence[AdapterOffer], wanted: str) -> AdapterOffer | None:
    """Return the offer with this id, else the only offer with this name; None if there is none.

    What has the form of an adapter's id means that adapter alone. Names are compared without regard
    to case. ``NAME@DIGEST`` finds a base model only if its digest
    begins so. Raises UnknownModel if several offers have the name.
    """
    if (adapter_id := adapter_named(wanted)) is not None:
        found = (offer for offer in offers if offer.adapter_id == adapter_id != BASE_MODEL)
        return next(found, None)
    if (reference := as_reference(wanted)) is not None:
        name, digits = reference
        bases = [each for each in offers if each.adapter_id == BASE_MODEL]
        for offer in bases:
            if same_name(offer.model, name) and offer.weights_digest.hex().startswith(digits):
                return offer
        return None
    for offer in offers:
        if offer.model == wanted:
            return offer
    named = [offer for offer in offers if offer.name and same_name(offer.name, wanted)]
    if len(named) > 1:
        models = ", ".join(offer.model for offer in named)
        raise UnknownModel(
            f"{wanted[:80]!r} is the name of several models: say which of {models}", param="model"
        )
    return named[0] if named else None


def is_askable(wanted: str) -> bool:
    """Return whether a model's id or title can be asked for in a URL: visible, and not long."""
    return wanted.isprintable() and 0 < len(wanted) <= ASKED_CHARS


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


def same_name(name: str, wanted: str) -> bool:
    """Return whether two names are the same without regard to case and outer white space."""
    return name.strip().casefold() == wanted.strip().casefold()
