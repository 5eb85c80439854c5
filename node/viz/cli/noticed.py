"""Put into words what a node says of notices: unanswered ones, and one that suspends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from viz.domain.display import moment

if TYPE_CHECKING:
    from viz.domain.notices import NoticeSummary


def effect(found: Mapping[str, Any]) -> str:
    """Return in words what a notice does."""
    if found["state"] == "rejected":
        return "no: the operator rejected it"
    if found["state"] == "upheld":
        return f"since {moment(min(found['effectiveAt'], found['answeredAt']))}: upheld"
    if found["effectiveAt"] == found["receivedAt"]:
        return "at once: sales stop until the operator answers"
    return f"{moment(found['effectiveAt'])}, if the operator has not answered by then"


def notices_in_words(found: NoticeSummary) -> str:
    """Return how many notices are unanswered, and kind and date of the oldest."""
    return _unanswered(found.open, found.kind, found.received_at)


def notices_rows(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the rows on notices of a node's answer about an adapter or a work."""
    rows: list[tuple[str, object]] = []
    if suspended := found.get("suspended"):
        by = f"notice {suspended['noticeId']} ({suspended['kind']})"
        rows.append(("suspended", f"since {moment(suspended['since'])}, by {by}"))
    if said := found.get("notices"):
        rows.append(("notices", _unanswered(said["open"], said["kind"], said["receivedAt"])))
    return rows


def _unanswered(count: int, kind: str, received_at_s: int) -> str:
    several = f"{count} unanswered, the oldest" if count > 1 else "one unanswered"
    return f"{several}: {kind}, {moment(received_at_s)}"
