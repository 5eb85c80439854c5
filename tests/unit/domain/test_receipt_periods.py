"""What a node publishes of its receipts: one set, signed once, that hides nobody's receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.domain.test_receipt_audit import CHAIN, KEY, NODE, OTHER, WHERE, made

from viz.cli.http import MAX_ANSWER_BYTES
from viz.domain.eip712 import public_address, sign_compact
from viz.domain.ports.transactions import Event
from viz.domain.receipt_audit import PublicReceipt
from viz.domain.receipt_periods import (
    PeriodAudit,
    PublishedReceipt,
    ReadPeriod,
    audit_periods,
    in_order,
    root_of,
)
from viz.domain.typed_data import ReceiptPeriod
from viz.domain.units import UINT32_MAX, UINT96_MAX, ZERO_HASH, AdapterId, Hash32
from viz.domain.usage import UsageLine, sum_of
from viz.errors import InvalidRequest
from viz.protocol.receipt_periods import (
    MAX_PERIOD_BYTES,
    MAX_PERIOD_RECEIPTS,
    period_blob,
    receipts_of_blob,
)


def public(receipts: Sequence[PublicReceipt]) -> tuple[PublishedReceipt, ...]:
    return in_order(PublishedReceipt(WHERE.digest(e.receipt), e.lines) for e in receipts)


def published(
    receipts: Sequence[PublishedReceipt],
    number: int,
    since_s: int,
    until_s: int,
    previous: Hash32 = ZERO_HASH,
    *,
    key: bytes = KEY,
    **changes: Any,
) -> ReadPeriod:
    amount = sum(sum_of(each.lines) for each in receipts)
    signed = ReceiptPeriod(
        NODE, number, since_s, until_s, previous, root_of(receipts), len(receipts), amount
    )
    signed = replace(signed, **changes)
    return ReadPeriod(signed, sign_compact(key, WHERE.digest(signed)), receipts)


# Receipts 1 to 4 have the times 101 to 104, and 10 units of adapter 7 each.
FIRST = published(public(CHAIN[:2]), 1, 100, 103)
SECOND = published(public(CHAIN[2:]), 2, 103, 110, FIRST.period.root)


def earned(units: int, adapter: int = 7, node: str = NODE) -> Event:
    args: dict[str, Any] = {"adapterId": adapter, "node": node, "amount": units}
    return Event("Settlement", "Earned", args, 1, ZERO_HASH, ZERO_HASH, 0)


def audit(
    periods: Sequence[ReadPeriod], own: Sequence[PublicReceipt] = CHAIN, *claims: Event
) -> PeriodAudit:
    return audit_periods(periods, own, claims or (earned(40),), node=NODE, domain=WHERE)


def test_all_receipts_are_in_their_periods_and_sum_to_what_was_claimed() -> None:
    """Another node's earnings do not count for this one."""
    found = audit((FIRST, SECOND), CHAIN, earned(25), earned(15), earned(9, node=NODE[::-1]))
    assert (found.verdict, found.findings, found.missing) == ("reproduced", [], [])
    assert found.included == 4
    assert found.published == found.claimed == {AdapterId(7): 40}


def test_a_blob_says_no_more_than_digests_and_amounts() -> None:
    """Who has no receipt learns no channel, signer, text or time from it; and it reads back."""
    raw = period_blob(FIRST.receipts)
    assert receipts_of_blob(raw) == FIRST.receipts
    assert raw == period_blob(receipts_of_blob(raw))
    for each in CHAIN[:2]:
        for secret in (each.receipt.channel_id, each.receipt.request_hash, each.signature):
            assert secret.hex().encode() not in raw
        assert WHERE.digest(each.receipt).hex().encode() in raw


@pytest.mark.parametrize(
    ("periods", "said"),
    [
        ((replace(FIRST, receipts=public(CHAIN[:1])), SECOND), "do not have the root"),
        ((published(public(CHAIN[:1]), 1, 100, 103), SECOND), "does not follow"),
        ((published(public(CHAIN[:2]), 1, 100, 103, key=OTHER), SECOND), "is not signed by"),
        (
            (published(public(CHAIN[:2]), 1, 100, 103, node=public_address(OTHER)), SECOND),
            "is not signed by",
        ),
        ((SECOND,), "does not follow the period before it"),
        ((published(public(CHAIN[:2]), 1, 100, 103, amount_units=19), SECOND), "over 19"),
        ((published(public(CHAIN[:2]), 1, 100, 103, count=3), SECOND), "3 over 20 were signed"),
        ((FIRST, published(public(CHAIN), 2, 103, 110, FIRST.period.root)), "published before"),
        ((FIRST, published(public(CHAIN[2:]), 2, 102, 110, FIRST.period.root)), "begins before"),
    ],
    ids=["left out of the blob", "another root", "another key", "another node", "no first period",
         "another sum", "another count", "twice", "overlapping"],
)  # fmt: skip
def test_what_is_not_what_was_signed_is_found(periods: Sequence[ReadPeriod], said: str) -> None:
    found = audit(periods)
    assert found.verdict == "different"
    assert any(said in finding for finding in found.findings), found.findings


def test_a_receipt_that_was_left_out_is_found_by_who_has_it() -> None:
    """The node signed a whole period without it: its sum and root agree, and it lied."""
    short = published(public(CHAIN[:1]), 1, 100, 110)
    found = audit((short,), CHAIN, earned(10))
    assert found.verdict == "different" and found.included == 1
    assert any("receipt 2" in each and "in none of the periods" in each for each in found.findings)


def test_a_receipt_that_was_published_with_other_amounts_is_found() -> None:
    """So that an adapter's works are not robbed in the sums alone."""
    (only,) = public(CHAIN[:1])
    moved = (replace(only, lines=(UsageLine(AdapterId(8), 10),)),)
    found = audit((published(moved, 1, 100, 110),), CHAIN[:1], earned(10, 8))
    assert any("published with other amounts" in each for each in found.findings)


def test_a_receipt_of_a_period_that_has_not_ended_proves_nothing_yet() -> None:
    found = audit((FIRST,), CHAIN, earned(20))
    assert found.verdict == "inconclusive" and found.findings == []
    assert found.missing == ["the periods of 2 newer receipts, which have not ended"]


@pytest.mark.parametrize(("claimed", "said"), [(39, "the claim of 1 units"), (41, "paid ahead")])
def test_sums_that_are_not_what_was_claimed_are_told(claimed: int, said: str) -> None:
    """A claim may come later, and a voucher may pay ahead: neither is held, neither is a lie."""
    found = audit((FIRST, SECOND), CHAIN, earned(claimed))
    assert found.verdict == "inconclusive" and said in found.missing[0]
    assert audit(()).verdict == "inconclusive", "a node that published nothing"


@pytest.mark.parametrize(
    "raw",
    [b"[]", b"{", b'{"format":"viz-receipts/2","receipts":[]}',
     b'{"format":"viz-receipts/1","receipts":[["0x00",[[7,"1"]]]]}',
     b'{"format":"viz-receipts/1","receipts":[["0x' + b"11" * 32 + b'",[[7,"0"]]]]}',
     b'{"format":"viz-receipts/1","receipts":[["0x' + b"11" * 32 + b'"]]}'],
)  # fmt: skip
def test_a_blob_of_a_stranger_is_refused_with_words(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        receipts_of_blob(raw)


def test_the_tree_s_leaf_binds_adapter_and_amount() -> None:
    one = PublishedReceipt(Hash32(bytes(32)), made(1, 10).lines)
    assert one.leaf == bytes(32) + b"\0\0\0\x07" + bytes(11) + b"\x0a"


def test_the_largest_period_that_a_node_publishes_is_read() -> None:
    """A day may have as many receipts as a blob holds, each of the longest amount; one more makes
    the blob another's, and is refused before it is read."""
    line = UsageLine(AdapterId(UINT32_MAX), UINT96_MAX)
    digests = (Hash32(number.to_bytes(32, "big")) for number in range(MAX_PERIOD_RECEIPTS))
    full = [PublishedReceipt(digest, (line,)) for digest in digests]
    raw = period_blob(full)
    assert len(raw) <= MAX_PERIOD_BYTES <= MAX_ANSWER_BYTES, "and the auditor's client takes it"
    assert len(receipts_of_blob(raw)) == MAX_PERIOD_RECEIPTS
    with pytest.raises(InvalidRequest):
        receipts_of_blob(period_blob([*full, PublishedReceipt(Hash32(b"\1" * 32), (line,))]))
