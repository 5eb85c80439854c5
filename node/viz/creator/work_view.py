"""Read what a node says of one work. Imports no HTTP client: short commands need this module."""

from __future__ import annotations

from dataclasses import dataclass

from viz.domain.license import Terms
from viz.domain.ports.chain import ContentState, TermsState
from viz.domain.units import UINT96_MAX, ContentId
from viz.errors import InvalidRequest
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader


@dataclass(frozen=True, slots=True)
class WorkView:
    """A work and its current terms; a node gives no terms of a withdrawn work.

    ``notices`` is what a node says of unanswered notices on it: how many, and of the oldest the
    kind and the time.
    """

    content: ContentState
    offered: TermsState | None
    notices: Json | None = None


def work_from_json(content_id: ContentId, found: object) -> WorkView:
    """Return what a node says of a work; raise InvalidRequest if it is of another or none."""
    reader = Reader(found, "the work")
    if reader.integer("contentId", JSON_INTEGER_MAX) != content_id:
        raise InvalidRequest(f"the answer is of another work than {content_id}")
    content = ContentState(
        content_id,
        reader.address("owner"),
        reader.address("creator"),
        reader.hash32("commitment"),
        reader.hash32("termsHash"),
        reader.integer("withdrawnAt", JSON_INTEGER_MAX),
    )
    notices = reader.optional("notices", lambda name: _summary(reader.child(name)))
    if not reader.has("terms"):
        return WorkView(content, None, notices)
    said = reader.child("terms")
    terms = Terms(
        training_fee_units=said.integer("training_fee_units", UINT96_MAX),
        min_royalty_bps=said.integer("min_royalty_bps"),
        grant_duration_s=said.integer("grant_duration_s"),
        notice_s=said.integer("notice_s"),
        revocation_class=said.integer("revocation_class"),
        uses=said.integer("uses"),
        approval_required=said.boolean("approval_required"),
    )
    terms.check()
    return WorkView(content, TermsState(terms, reader.hash32("licenseHash")), notices)


def _summary(reader: Reader) -> Json:
    return {
        "open": reader.integer("open"),
        "kind": reader.text("kind", 32),
        "receivedAt": reader.integer("receivedAt", JSON_INTEGER_MAX),
    }
