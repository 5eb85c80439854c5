"""Define notices of third parties, and the published rule of when one stops sales.

A notice is about an adapter or about a work, and then about every adapter that was trained on the
work. The rule:

- A notice that the operator has not answered takes effect at its deadline. The deadline is fixed
  when the notice is received, and depends on the kind.
- A notice about personal data takes effect at once if it comes from somebody with standing: the
  operator, or an owner of a work in question. But not after the operator rejected the same
  account's notice on the same subject.
- A notice that the operator upholds takes effect at once; one that is rejected has no effect.

While a notice is in effect the adapter is suspended: no new request is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from viz.domain.typed_data import Notice
from viz.domain.units import Address, Hash32

NoticeState = Literal["open", "upheld", "rejected"]
DAY_S: Final = 86_400


class NoticeKind(IntEnum):
    """What a notice claims."""

    COPYRIGHT = 1
    PERSONAL_DATA = 2
    OTHER = 3


KIND_NAMES: Final = {
    "copyright": NoticeKind.COPYRIGHT,
    "personal-data": NoticeKind.PERSONAL_DATA,
    "other": NoticeKind.OTHER,
}
NAME_OF_KIND: Final = {kind: name for name, kind in KIND_NAMES.items()}


@dataclass(frozen=True, slots=True)
class NoticeRule:
    """How long the operator has to answer: a personal-data notice, and any other one."""

    personal_data_s: int = 3 * DAY_S
    answer_s: int = 14 * DAY_S

    def effective_at(
        self, kind: NoticeKind, received_at_s: int, *, standing: bool, rejected_before: bool
    ) -> int:
        """Return when a notice takes effect if nobody answers it, in seconds since 1970."""
        if kind is not NoticeKind.PERSONAL_DATA:
            return received_at_s + self.answer_s
        at_once = standing and not rejected_before
        return received_at_s if at_once else received_at_s + self.personal_data_s


@dataclass(frozen=True, slots=True)
class NoticeRecord:
    """A notice that the node received, and the operator's answer to it.

    ``digest`` is what was signed. ``standing``: the notifier was the operator or an owner then.
    """

    notice: Notice
    digest: Hash32
    signature: bytes
    received_at: int
    effective_at: int
    standing: bool
    state: NoticeState = "open"
    reason: str = ""
    answered_at: int = 0
    notice_id: int = 0

    @property
    def notifier(self) -> Address:
        return self.notice.notifier

    @property
    def subject(self) -> tuple[int, int]:
        """The ids of the adapter and the work, one of which is 0."""
        return int(self.notice.adapter_id), int(self.notice.content_id)

    @property
    def kind(self) -> NoticeKind:
        return NoticeKind(self.notice.kind)

    def in_effect_since(self, now_s: int) -> int | None:
        """Return since when the notice suspends; None if it does not."""
        if self.state == "rejected":
            return None
        since = self.effective_at
        if self.state == "upheld":
            since = min(since, self.answered_at)
        return since if since <= now_s else None


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why an adapter is not sold: the notice, its kind, and since when."""

    notice_id: int
    kind: NoticeKind
    since_s: int


@dataclass(frozen=True, slots=True)
class NoticeSummary:
    """The unanswered notices on something: how many, and kind and date of the oldest."""

    open: int
    kind: str
    received_at: int


def summary_of(records: Iterable[NoticeRecord]) -> NoticeSummary | None:
    """Return the summary of those that are unanswered; None if there are none."""
    unanswered = sorted(
        (each for each in records if each.state == "open"), key=lambda each: each.received_at
    )
    if not unanswered:
        return None
    first = unanswered[0]
    return NoticeSummary(len(unanswered), NAME_OF_KIND[first.kind], first.received_at)


def suspension_by(records: Iterable[NoticeRecord], now_s: int) -> Suspension | None:
    """Return the suspension by the notice that took effect first; None if none is in effect."""
    found = [
        Suspension(each.notice_id, each.kind, since)
        for each in records
        if (since := each.in_effect_since(now_s)) is not None
    ]
    return min(found, key=lambda each: (each.since_s, each.notice_id), default=None)
