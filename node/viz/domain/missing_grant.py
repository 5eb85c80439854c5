"""Word the refusal of a trainer who has no live grant to a work, with what it can do. Pure."""

from __future__ import annotations

from viz.domain.display import moment
from viz.domain.units import Address, ContentId
from viz.errors import NoLiveGrant


def no_live_grant(content_id: ContentId, trainer: Address, withdrawn_at_s: int) -> NoLiveGrant:
    """Return the error for a trainer without a live grant, with what it can do about that.

    ``withdrawn_at_s`` is when the work was withdrawn, 0 for never: after it nobody gets a grant.
    """
    remedy = (
        f"the work was withdrawn, {moment(withdrawn_at_s)}, for ever, and grants no new license: "
        "leave it out"
        if withdrawn_at_s
        else f"acquire one with `viz content license {content_id}`"
    )
    return NoLiveGrant(
        f"{trainer} holds no live grant to work {content_id}: {remedy}", contents=[int(content_id)]
    )
