"""Read the wish to publish in a training request, and tell whether it is fulfilled.

The wish is in the run's row of the ledger, so that it survives the command and a restart. The
outcome is in the row's result, as ``publication``. Its ``state`` is one of:

- ``waiting``: nothing is registered yet, and it is tried again;
- ``registered``: the adapter is on the chain but not on offer yet, and it is tried again;
- ``published``: the adapter is registered; ``offer`` is its offer, or None with a ``detail``;
- ``refused``: it is not sold, and ``code`` and ``detail`` say why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from viz.domain.ports.ledger import TrainingRecord
from viz.domain.shares import MAX_SHARES, check_rates
from viz.domain.units import BPS, UINT64_MAX, AdapterId, ContentId
from viz.errors import InvalidRequest
from viz.protocol.wire import MAX_TEXT_CHARS, Reader
from viz.services.serving.offering import OfferTerms

WISH: Final = "publish"
PUBLICATION: Final = "publication"
TAKEN_BACK: Final = {
    "state": "refused",
    "code": "training-cancelled",
    "detail": "its publication was cancelled: `viz adapter register` publishes it",
}
_FULFILLED: Final = frozenset({"published", "refused"})


@dataclass(frozen=True, slots=True)
class PublicationWish:
    """How a run's adapter is registered and sold.

    ``anyway``: also below the thresholds of the report card. ``shares`` replace the shares in
    proportion to the works' sizes. ``succeeds`` is the adapter that this one succeeds.
    """

    royalty_bps: int
    trainer_bps: int
    anyway: bool = False
    shares: tuple[tuple[ContentId, int], ...] | None = None
    succeeds: AdapterId | None = None
    terms: OfferTerms = field(default_factory=OfferTerms)


def wish_in(request: Mapping[str, Any]) -> PublicationWish | None:
    """Return the wish in a request, None if it has none; raise InvalidRequest as ``wish_of``."""
    return None if request.get(WISH) is None else wish_of(request[WISH])


def wish_of(value: object) -> PublicationWish:
    """Parse the wish; raise InvalidRequest, which names what cannot be read."""
    reader = Reader(value, "the publication")
    succeeds = reader.optional("succeeds", reader.integer)
    shares = _shares(reader.array("shares", MAX_SHARES)) if reader.has("shares") else None
    royalty_bps, trainer_bps = (reader.integer(name, BPS) for name in ("royaltyBps", "trainerBps"))
    check_rates(royalty_bps, trainer_bps)
    return PublicationWish(
        royalty_bps=royalty_bps,
        trainer_bps=trainer_bps,
        anyway=bool(reader.optional("anyway", reader.boolean)),
        shares=shares,
        succeeds=None if succeeds is None else AdapterId(succeeds),
        terms=offer_terms(reader),
    )


def offer_terms(reader: Reader) -> OfferTerms:
    """Return how an adapter is to be sold, as far as ``reader`` gives it."""

    def units(name: str) -> int:
        return reader.units(name, UINT64_MAX)

    return OfferTerms(
        name=reader.optional("name", reader.text) or None,
        description=reader.optional("description", reader.text),
        prompt_units_per_million=reader.optional("promptPrice", units),
        completion_units_per_million=reader.optional("completionPrice", units),
        titles=_titles(reader.array("titles", MAX_SHARES)) if reader.has("titles") else {},
    )


def awaits_publication(record: TrainingRecord) -> bool:
    """Return whether a run is finished but its wish is not fulfilled yet."""
    return (
        record.state == "done"
        and record.request.get(WISH) is not None
        and "destroyed" not in record.result
        and publication_state(record) not in _FULFILLED
    )


def is_over(record: TrainingRecord) -> bool:
    """Return whether a run and its publication have ended."""
    return record.ended and not awaits_publication(record)


def publication_state(record: TrainingRecord) -> str:
    """Return the state of a run's publication; an empty text if there is none."""
    made = record.result.get(PUBLICATION)
    return str(made.get("state")) if isinstance(made, Mapping) else ""


def _shares(rows: Sequence[Any]) -> tuple[tuple[ContentId, int], ...]:
    try:
        return tuple((ContentId(int(row[0])), int(row[1])) for row in rows)
    except (TypeError, ValueError, LookupError) as error:
        raise InvalidRequest("shares must be [[contentId, bps], ...]") from error


def _titles(rows: Sequence[Any]) -> dict[ContentId, str]:
    try:
        return {ContentId(int(key)): str(title)[:MAX_TEXT_CHARS] for key, title in rows}
    except (TypeError, ValueError) as error:
        raise InvalidRequest("titles must be [[contentId, title], ...]") from error
