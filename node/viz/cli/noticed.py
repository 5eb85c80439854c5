"""Put into words what a node says of notices: unanswered ones, and one that suspends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from viz.cli.http import ask
from viz.domain.display import moment
from viz.errors import AdapterEnded, AdapterSuspended, VizError

if TYPE_CHECKING:
    from viz.domain.notices import NoticeSummary


def effect(found: Mapping[str, Any]) -> str:
    """Return in words what a notice does."""
    if found["state"] == "rejected":
        return "no: the operator rejected it"
    if found["state"] == "upheld":
        return f"since {moment(min(found['effectiveAt'], found['answeredAt']))}: upheld"
    if found["effectiveAt"] == found["receivedAt"]:
        return "at once: what it is about is not sold until the operator answers"
    return f"{moment(found['effectiveAt'])}, if the operator has not answered by then"


def notices_in_words(found: NoticeSummary) -> str:
    """Return how many notices are unanswered, and kind and date of the oldest."""
    return _unanswered(found.open, found.kind, found.received_at)


async def why_absent(node: str, model: str, unknown: VizError) -> VizError:
    """Return what a node says of a model that it does not offer: ended, suspended or unknown."""
    try:
        await ask("GET", node, f"/v1/models/{quote(model, safe='')}")
    except (AdapterEnded, AdapterSuspended) as error:
        return error
    except VizError:
        return unknown
    return unknown


def notices_rows(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the rows on notices of a node's answer about an adapter or a work."""
    rows: list[tuple[str, object]] = []
    if suspended := found.get("suspended"):
        by = f"notice {suspended['noticeId']} ({suspended['kind']})"
        rows.append(("suspended", f"since {moment(suspended['since'])}, by {by}"))
    if said := found.get("notices"):
        rows.append(("notices", _unanswered(said["open"], said["kind"], said["receivedAt"])))
    return rows


def ended_rows(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the rows on an adapter's end of a node's answer about it: why, and what follows."""
    ended = found.get("ended")
    if not ended:
        return []
    what = "was withdrawn" if ended["reason"] == "work-withdrawn" else "was licensed until"
    why = f"work {ended['contentId']} {what} {moment(ended['since'])}"
    rows: list[tuple[str, object]] = [("ended", f"{moment(ended['endedAt'])}: {why}")]
    if successor := ended.get("successor"):
        rows.append(("successor", successor))
    return rows


def _unanswered(count: int, kind: str, received_at_s: int) -> str:
    several = f"{count} unanswered, the oldest" if count > 1 else "one unanswered"
    return f"{several}: {kind}, {moment(received_at_s)}"
