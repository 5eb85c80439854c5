"""Word the refusals of requests for an adapter that is no longer sold."""

from __future__ import annotations

from viz.domain.display import moment
from viz.domain.notices import NAME_OF_KIND, Suspension
from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId
from viz.errors import AdapterEnded, AdapterSuspended
from viz.protocol.messages import adapter_model
from viz.services.withdrawal.withdrawal_watch import WITHDRAWN


def ended_error(
    adapter_id: AdapterId, end: AdapterEnd, successor: AdapterId | None = None
) -> AdapterEnded:
    """Return the error for an ended adapter: it names the work, reason, dates and successor."""
    what = "was withdrawn" if end.reason == WITHDRAWN else "was licensed until"
    said = (
        f"adapter {adapter_id} ended {moment(end.ended_s)} and is no longer served: work "
        f"{end.content_id} {what} {moment(end.since_s)}"
    )
    follows: dict[str, int | str] = {}
    if successor is not None:
        said += f"; its successor is {adapter_model(successor)}"
        follows = {"successorId": int(successor), "successor": adapter_model(successor)}
    return AdapterEnded(
        said,
        **follows,
        adapterId=int(adapter_id),
        contentId=int(end.content_id),
        reason=end.reason,
        since=end.since_s,
        endedAt=end.ended_s,
    )


def suspended_error(adapter_id: AdapterId, suspended: Suspension) -> AdapterSuspended:
    """Return the error for an adapter that a notice suspends: it names notice, kind and date."""
    kind = NAME_OF_KIND[suspended.kind]
    return AdapterSuspended(
        f"adapter {adapter_id} is not served since {moment(suspended.since_s)}: notice "
        f"{suspended.notice_id} ({kind}) is in effect; GET /viz/v1/notices has its state",
        adapterId=int(adapter_id),
        noticeId=suspended.notice_id,
        reason=kind,
        since=suspended.since_s,
    )
