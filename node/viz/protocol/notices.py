"""Define the messages of notices: the signed notice, and what a node shows of those it has.

Owns the JSON of both. Does no I/O. What the notifier wrote (statement, contact, evidence) and who
it is are for the node's operator; everybody sees what a notice is about, its kind, its dates and
the operator's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.notices import NAME_OF_KIND, NoticeRecord, NoticeRule
from viz.domain.typed_data import Notice
from viz.domain.units import UINT32_MAX
from viz.protocol.messages import SignatureHex
from viz.protocol.wire import JSON_INTEGER_MAX, Json
from viz.protocol.wire_model import (
    BOOLEAN,
    AddressText,
    AtMost,
    Hash32Hex,
    JsonInteger,
    Signed,
    Uint32,
    WireModel,
    text,
    whole,
)

# POST SignedNotice -> NoticeView; GET ?after=ID&adapter=ID&work=ID -> NoticePage.
NOTICES_PATH: Final = "/viz/v1/notices"
NOTICES_PAGE: Final = 100
MAX_STATEMENT_CHARS: Final = 1_000
MAX_CONTACT_CHARS: Final = 200
MAX_REASON_CHARS: Final = 500
# The only characters of a text that need not be printable.
LAYOUT: Final = "\n\t"
# What is read of a stranger's notice: room for both texts in any alphabet, escaped.
MAX_NOTICE_BYTES: Final = 20_000


@dataclass(frozen=True, slots=True)
class SignedNotice(WireModel):
    """A notice, signed by its notifier."""

    WHERE: ClassVar[str] = "the notice"
    notice: Annotated[Notice, Signed]
    signature: SignatureHex


@dataclass(frozen=True, slots=True)
class NoticeView(WireModel):
    """What everybody sees of a notice; one of ``adapter_id`` and ``content_id`` is 0.

    ``effective_at`` is when sales stop, if the operator does not reject it. ``digest`` is what was
    signed, by which its notifier recognises it.
    """

    WHERE: ClassVar[str] = "a notice"
    notice_id: JsonInteger
    digest: Hash32Hex
    adapter_id: Uint32
    content_id: Annotated[int, whole(JSON_INTEGER_MAX)]
    kind: Annotated[str, text(32)]
    standing: Annotated[bool, BOOLEAN]
    received_at: JsonInteger
    effective_at: JsonInteger
    state: Annotated[str, text(32)]
    answered_at: JsonInteger
    reason: Annotated[str, text(MAX_REASON_CHARS)]


@dataclass(frozen=True, slots=True)
class OperatorsNotice(WireModel):
    """What the operator sees of a notice: also who wrote what."""

    WHERE: ClassVar[str] = "a notice"
    view: NoticeView
    notifier: AddressText
    statement: Annotated[str, text(MAX_STATEMENT_CHARS)]
    contact: Annotated[str, text(MAX_CONTACT_CHARS)]
    evidence_hash: Hash32Hex
    issued_at: JsonInteger


@dataclass(frozen=True, slots=True)
class PublishedRule(WireModel):
    """The seconds in which this node answers a notice, before it takes effect by itself."""

    WHERE: ClassVar[str] = "the node's rule"
    personal_data_s: Uint32
    answer_s: Uint32


@dataclass(frozen=True, slots=True)
class NoticePage(WireModel):
    """A page of the notices at a node, by their numbers; ``next`` is the next page's ``after``."""

    WHERE: ClassVar[str] = "the node's notices"
    rule: PublishedRule
    notices: Annotated[tuple[NoticeView, ...], AtMost(NOTICES_PAGE)]
    next: JsonInteger | None = None


def view_of(record: NoticeRecord) -> NoticeView:
    """Return what everybody sees of a notice."""
    adapter_id, content_id = record.subject
    return NoticeView(
        record.notice_id,
        record.digest,
        adapter_id,
        content_id,
        NAME_OF_KIND[record.kind],
        record.standing,
        record.received_at,
        record.effective_at,
        record.state,
        record.answered_at,
        record.reason,
    )


def operators_json(record: NoticeRecord) -> Json:
    """Return what the operator sees of a notice."""
    said = record.notice
    return OperatorsNotice(
        view_of(record),
        said.notifier,
        said.statement,
        said.contact,
        said.evidence_hash,
        said.issued_at_s,
    ).to_json()


def published(rule: NoticeRule) -> PublishedRule:
    """Return a node's rule as it is published."""
    return PublishedRule(min(rule.personal_data_s, UINT32_MAX), min(rule.answer_s, UINT32_MAX))
