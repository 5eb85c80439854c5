"""Chains of receipts against each other and against the heads that were settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.domain.eip712 import public_address, settlement_domain, sign_compact
from viz.domain.ports.transactions import Event
from viz.domain.receipt import next_head
from viz.domain.receipt_audit import PublicReceipt, ReceiptAudit, audit_receipts
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Hash32
from viz.domain.usage import UsageLine, usage_hash

KEY, OTHER = b"\x11" * 32, b"\x12" * 32
NODE = public_address(KEY)
WHERE = settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)
CHANNEL = channel_id(public_address(b"\x33" * 32), NODE)


def made(seq: int, total: int, amount: int = 10, *, key: bytes = KEY) -> PublicReceipt:
    lines = (UsageLine(AdapterId(7), amount),)
    hashed = Hash32(bytes([seq]) * 32)
    receipt = Receipt(
        CHANNEL, seq, usage_hash(lines), ZERO_HASH, hashed, hashed, 3, 4, amount, total, 100 + seq
    )
    return PublicReceipt(receipt, lines, sign_compact(key, WHERE.digest(receipt)))


CHAIN = tuple(made(seq, 10 * seq) for seq in range(1, 5))


def head_of(receipts: Sequence[PublicReceipt]) -> Hash32:
    head = ZERO_HASH
    for each in receipts:
        head = next_head(head, WHERE.digest(each.receipt))
    return head


def claimed(settled: int, head: Hash32, block: int = 1) -> Event:
    args: dict[str, Any] = {"channelId": CHANNEL, "settled": settled, "receiptsHead": head}
    return Event("Settlement", "Claimed", args, block, ZERO_HASH, ZERO_HASH, 0)


def audit(receipts: Sequence[PublicReceipt], *claims: Event) -> ReceiptAudit:
    return audit_receipts(receipts, claims, node=NODE, domain=WHERE)


def test_a_whole_chain_covers_what_was_settled() -> None:
    """In any order; a voucher may sign ahead of the receipts that it names."""
    found = audit(CHAIN[::-1], claimed(25, head_of(CHAIN[:2])), claimed(40, head_of(CHAIN), 2))
    assert (found.verdict, found.findings, found.missing) == ("reproduced", [], [])
    (channel,) = found.channels.values()
    assert (channel.receipts, channel.billed_units, channel.settled_units) == (4, 40, 40)
    assert channel.covered_units == 40 and channel.by_adapter == {AdapterId(7): 40}


def tampered(place: int, **changes: Any) -> PublicReceipt:
    """Return a receipt that was changed after a claim, and signed anew by its node."""
    receipt = replace(CHAIN[place].receipt, **changes)
    return PublicReceipt(receipt, CHAIN[place].lines, sign_compact(KEY, WHERE.digest(receipt)))


@pytest.mark.parametrize(
    ("receipts", "said"),
    [
        ((CHAIN[0], tampered(1, completion_tokens=5), *CHAIN[2:]), "is that of no receipt here"),
        ((CHAIN[0], tampered(1, time_s=1), *CHAIN[2:]), "is that of no receipt here"),
        ((CHAIN[0], replace(CHAIN[1], signature=CHAIN[0].signature), *CHAIN[2:]), "not signed by"),
        ((*CHAIN[:3], made(4, 40, key=OTHER)), "not signed by"),
        ((*CHAIN[:3], replace(CHAIN[3], lines=(UsageLine(AdapterId(8), 10),))), "usage lines"),
        ((*CHAIN[:3], made(4, 41)), "the total is 41"),
        ((*CHAIN, made(4, 40, 11)), "two of receipt 4"),
    ],
)
def test_a_tampered_receipt_convicts(receipts: tuple[PublicReceipt, ...], said: str) -> None:
    """Also one that its node signed anew: the head on the chain is that of the first one."""
    found = audit(receipts, claimed(20, head_of(CHAIN[:2])))
    assert found.verdict == "different"
    assert any(said in finding for finding in found.findings), found.findings


def test_what_is_missing_proves_nothing_and_is_told() -> None:
    """Receipts that are not here may be anywhere: no conviction, and no success."""
    for given in ((CHAIN[0], *CHAIN[2:]), CHAIN[1:], CHAIN[:2]):
        found = audit(given, claimed(40, head_of(CHAIN)))
        assert (found.verdict, found.findings) == ("inconclusive", []), found
        assert found.missing
    nothing = audit(())
    assert nothing.verdict == "inconclusive", "no receipt is no success"
    assert nothing.missing == ["receipts: none were given, so nothing was checked"]


def test_a_channel_that_was_never_claimed_is_no_success() -> None:
    """Receipts of a made-up key and channel agree with themselves; nothing compares them with the
    chain, so that nothing is reproduced."""
    found = audit(CHAIN)
    assert (found.verdict, found.findings) == ("inconclusive", [])
    assert "the chain has none" in found.missing[0] and "4 receipts" in found.missing[0]


def test_what_was_settled_beyond_the_receipts_is_told() -> None:
    """With the newest receipt left out all heads agree: what it bills looks as if paid ahead."""
    claims = (claimed(25, head_of(CHAIN[:2])), claimed(40, head_of(CHAIN[:3]), 2))
    for given, missing in ((CHAIN[:3], ["10 of the 40 units"]), (CHAIN, [])):
        found = audit(given, *claims)
        assert found.findings == []
        assert found.verdict == ("inconclusive" if missing else "reproduced")
        assert all(said in told for said, told in zip(missing, found.missing, strict=True))


def test_the_buyer_s_own_ledger_tells_what_was_paid_ahead() -> None:
    """It has the head of all receipts that were verified: with the same one none is missing."""
    claims, own = (claimed(40, head_of(CHAIN[:3])),), {CHANNEL: head_of(CHAIN[:3])}
    found = audit_receipts(CHAIN[:3], claims, node=NODE, domain=WHERE, own_heads=own)
    assert (found.verdict, found.channels[CHANNEL].paid_ahead_units) == ("reproduced", 10)
    own = {CHANNEL: head_of(CHAIN)}
    found = audit_receipts(CHAIN[:3], claims, node=NODE, domain=WHERE, own_heads=own)
    assert found.verdict == "inconclusive" and "left out" in found.missing[0]


def test_a_head_that_goes_back_convicts() -> None:
    """A later claim names a later receipt, or the same one."""
    found = audit(CHAIN, claimed(20, head_of(CHAIN[:3])), claimed(30, head_of(CHAIN[:1]), 2))
    assert any("earlier receipt" in finding for finding in found.findings)
