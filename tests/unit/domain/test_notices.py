"""The published rule: which notice stops sales, and from when on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.chain import NOW_S, address_of

from viz.domain.notices import (
    NoticeKind,
    NoticeRecord,
    NoticeRule,
    NoticeSummary,
    Suspension,
    summary_of,
    suspension_by,
)
from viz.domain.typed_data import Notice
from viz.domain.units import ZERO_HASH, AdapterId, ContentId

RULE = NoticeRule(personal_data_s=300, answer_s=2_000)
COPYRIGHT, PERSONAL, OTHER = NoticeKind


def record(number: int = 1, *, kind: NoticeKind = OTHER, effective_at: int = NOW_S) -> NoticeRecord:
    said = Notice(
        address_of(1), address_of(2), AdapterId(7), ContentId(0), kind, "no", "", ZERO_HASH, NOW_S
    )
    return NoticeRecord(said, ZERO_HASH, b"", NOW_S, effective_at, False, notice_id=number)


@pytest.mark.parametrize(
    ("kind", "standing", "rejected", "after_s"),
    [
        (PERSONAL, True, False, 0),
        (PERSONAL, True, True, 300),
        (PERSONAL, False, False, 300),
        (COPYRIGHT, True, False, 2_000),
        (COPYRIGHT, False, False, 2_000),
        (OTHER, True, False, 2_000),
        (OTHER, False, True, 2_000),
    ],
)
def test_only_personal_data_with_standing_stops_sales_at_once(
    kind: NoticeKind, standing: bool, rejected: bool, after_s: int
) -> None:
    """A stranger's signature switches nothing off, nor an owner's that was rejected before."""
    found = RULE.effective_at(kind, NOW_S, standing=standing, rejected_before=rejected)
    assert found == NOW_S + after_s


def test_a_notice_has_its_effect_from_its_deadline_or_the_answer_on() -> None:
    """Before its deadline an open notice does nothing; rejected it never does."""
    open_one = record(effective_at=NOW_S + 10)
    assert open_one.in_effect_since(NOW_S + 9) is None
    assert open_one.in_effect_since(NOW_S + 10) == NOW_S + 10
    upheld = replace(open_one, state="upheld", answered_at=NOW_S + 4)
    assert upheld.in_effect_since(NOW_S + 4) == NOW_S + 4
    late = replace(open_one, state="upheld", answered_at=NOW_S + 90)
    assert late.in_effect_since(NOW_S + 90) == NOW_S + 10
    rejected = replace(open_one, state="rejected", answered_at=NOW_S + 4)
    assert rejected.in_effect_since(NOW_S + 99) is None


def test_the_first_notice_in_effect_is_named_and_the_oldest_open_one_counted() -> None:
    """Buyers read one reason and one date, and how many wait for an answer."""
    first = replace(record(4, effective_at=NOW_S - 5), state="upheld", answered_at=NOW_S - 5)
    second = record(2, kind=PERSONAL, effective_at=NOW_S - 1)
    third = replace(record(3, kind=COPYRIGHT, effective_at=NOW_S + 1), received_at=NOW_S - 50)
    assert suspension_by((second, third, first), NOW_S) == Suspension(4, OTHER, NOW_S - 5)
    assert suspension_by((third,), NOW_S) is None
    assert summary_of((second, third, first)) == NoticeSummary(2, "copyright", NOW_S - 50)
    assert summary_of((first,)) is None
