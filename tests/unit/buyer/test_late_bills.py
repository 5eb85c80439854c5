"""Which request a late bill is for, how far it may exceed what arrived, and what is kept for it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.buyer.signing import (
    ASKED,
    CAP,
    QUESTION,
    Node,
    Restarting,
    asking,
    left,
    receipt,
    signer_of,
)
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer.ledger import open_requests as exposure_module
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.node_standing import BROKEN_ALLOWED, CUTS_ALLOWED, NodeStanding
from viz.buyer.ledger.open_request import STALLED_S, OpenRequest
from viz.buyer.ledger.open_requests import REFUSED_KEPT
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.domain.pricing import Price
from viz.domain.receipt import salted_hash
from viz.domain.units import ZERO_HASH
from viz.errors import NodeNotTrusted


@pytest.fixture
def ledger(tmp_path: Path) -> BuyerLedger:
    ledger = opened(tmp_path)
    observe(ledger, 1_000, 0)
    ledger.commit_standing(NodeStanding((NODE,), 1_000))
    return ledger


async def sign_ahead(voucher_signer: VoucherSigner, units: int) -> None:
    """Sign for an answer that ended well and cost nothing, so that it stays with the adapter."""
    with asking(voucher_signer, ASKED, units):
        await voucher_signer.cover(ASKED, required_units=units, wanted_units=units)


async def test_a_node_may_be_ahead_of_a_slow_reader_by_what_is_signed(
    voucher_signer: VoucherSigner,
) -> None:
    """It ended the trust for good over a few hundred units; what did not arrive is a loss."""
    await sign_ahead(voucher_signer, 40)
    left(voucher_signer, 12, most_units=CAP, arrived_units=5, excused_units=7)
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 52))
    assert voucher_signer.standing.lost_units == 45 and not voucher_signer.fault


@pytest.mark.parametrize("signed", [1, 20])
async def test_a_bill_beyond_what_was_signed_and_a_step_is_untrue(
    voucher_signer: VoucherSigner, signed: int
) -> None:
    await sign_ahead(voucher_signer, signed)
    left(voucher_signer, 12, most_units=CAP, arrived_units=5, excused_units=7)
    with pytest.raises(NodeNotTrusted, match="accounted for by what arrived"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 13 + signed))


def test_a_node_on_credit_may_be_ahead_by_what_may_still_be_lost(
    voucher_signer: VoucherSigner, ledger: BuyerLedger
) -> None:
    """Nothing is signed for it, and its bills run ahead of a reader all the same."""
    ledger.commit_standing(ledger.standing.on_credit())
    rest = voucher_signer.undelivered.rest_units
    left(voucher_signer, 12, most_units=2 * rest, arrived_units=5, excused_units=7)
    with pytest.raises(NodeNotTrusted, match="accounted for"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 12 + rest + 1))
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 50))
    assert voucher_signer.standing.lost_units == 43 and not voucher_signer.fault


@pytest.mark.parametrize("restart", [False, True])
def test_the_bill_of_a_retry_is_not_the_lost_requests(
    voucher_signer: VoucherSigner, ledger: BuyerLedger, restart: bool
) -> None:
    """The request that was lost on the way got it, as a loss: three retries ended the trust."""
    left(voucher_signer, 40, broken=True)
    left(voucher_signer, 40, arrived_units=30, excused_units=34)
    if restart:
        ledger.unbilled = ledger._asked.load(set())
        voucher_signer = signer_of(ledger, Node())
    voucher_signer.take_late(receipt(voucher_signer, ASKED, 33))
    (lost,) = voucher_signer._open_requests.ended()
    assert not lost.arrived_units
    assert not voucher_signer.standing.lost_units and not voucher_signer.standing.broken


def test_of_equal_requests_the_one_with_the_bills_text_is_billed(
    voucher_signer: VoucherSigner,
) -> None:
    """Both have as much text; a bill names the hash of its own."""
    signed = receipt(voucher_signer, ASKED, 30)
    of_b = replace(
        signed, receipt=replace(signed.receipt, response_hash=salted_hash(ZERO_HASH, b"b"))
    )
    a, b, refused = (
        OpenRequest(ASKED, b"same", arrived_units=units, text=text, refused=not text)
        for units, text in ((30, b"a"), (28, b"b"), (30, b""))
    )
    assert min((a, b, refused), key=lambda each: each.fit(of_b)) is b
    assert min((refused, a), key=lambda each: each.fit(of_b)) is a


def test_refused_requests_are_bounded_and_push_no_other_out(
    voucher_signer: VoucherSigner, ledger: BuyerLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is full refuses without end: each refusal was kept, in memory and on disk."""
    left(voucher_signer, 40, arrived_units=30)
    for _ in range(REFUSED_KEPT + 20):
        with asking(voucher_signer, ASKED, 40) as open_request:
            voucher_signer.keep(open_request)
            voucher_signer.drop(open_request, refused=True)
    assert len(ledger._asked.load(set())) == REFUSED_KEPT + 1
    with monkeypatch.context() as later:
        later.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
        later.setattr(exposure_module, "GIVEN_UP_KEPT", 1)
        assert voucher_signer.lacks_receipts
        voucher_signer.all_receipts_known()
        assert not voucher_signer.lacks_receipts
    (kept,) = ledger._asked.load(set())
    assert kept.arrived_units == 30 and not voucher_signer.standing.lost_units


async def test_an_end_that_the_node_provoked_excuses_nothing_that_did_not_arrive(
    voucher_signer: VoucherSigner,
) -> None:
    """A node demands what cannot be signed, so that the buyer ends each answer, and bills more."""
    for arrived_units in (5, 5, 5):
        left(
            voucher_signer, 12, most_units=CAP, arrived_units=arrived_units, excused_units=12,
            provoked=True,
        )  # fmt: skip
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 12))
    assert voucher_signer.standing.lost_units == 21


async def test_prompts_of_provoked_ends_without_a_letter_are_not_paid_for_ever(
    voucher_signer: VoucherSigner,
) -> None:
    """Not one letter came, and each prompt is billed: it ends as broken answers do."""
    for _ in range(3):
        left(voucher_signer, 12, most_units=CAP, excused_units=12, provoked=True)
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 12))
    assert voucher_signer.fault


@pytest.mark.parametrize("restart", [False, True])
def test_a_node_on_credit_may_be_beyond_the_cap_that_ended_an_answer(
    voucher_signer: VoucherSigner, ledger: BuyerLedger, restart: bool
) -> None:
    """Its first bill above the buyer's own cap ended the trust; what is beyond it is a loss."""
    capped: dict[str, Any] = {"most_units": CAP, "arrived_units": CAP, "asked_units": CAP + 100}
    left(voucher_signer, CAP, **capped, provoked=True, capped=True)
    if restart:
        ledger.unbilled = ledger._asked.load(set())
        voucher_signer = signer_of(ledger, Node())
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, CAP + 90))
    assert voucher_signer.standing.lost_units == 90 and not voucher_signer.fault
    left(voucher_signer, CAP, **capped, provoked=True, capped=True)
    with pytest.raises(NodeNotTrusted, match="accounted for"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, CAP + 101))
    left(voucher_signer, CAP, **capped)
    with pytest.raises(NodeNotTrusted, match="accounted for"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, CAP + 131))


@pytest.mark.parametrize("lost", [False, True])
def test_a_bill_that_fits_an_ended_and_a_running_answer_goes_to_the_nearer_one(
    voucher_signer: VoucherSigner, lost: bool
) -> None:
    """A lost request got the bill of its retry, which a slow reader had not read to its end, as a
    loss; or the larger bill of the second answer fell to the first, beyond its bound."""
    if lost:
        left(voucher_signer, 40, broken=True)
    else:
        left(voucher_signer, 12, most_units=CAP, arrived_units=5, excused_units=12)
    with asking(voucher_signer, ASKED, CAP) as second:
        second.arrived_units = 40
        second.excused_units = 55
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 50 if lost else 10))
        assert bool(second.seq) == lost
        voucher_signer.leave_unreceipted(second)
    assert lost or voucher_signer.take_late(receipt(voucher_signer, ASKED, 50))
    standing = voucher_signer.standing
    assert not standing.lost_units and not standing.broken and not voucher_signer.fault


@pytest.mark.parametrize("restart", [False, True])
def test_a_bill_that_names_its_request_goes_to_no_equal_one(
    voucher_signer: VoucherSigner, ledger: BuyerLedger, restart: bool
) -> None:
    """The bill of an answer that was left in its prompt ended an equal one, three times the trust.

    Only what the bill names counts: the running answer fits it better in all else.
    """
    first = left(voucher_signer, 12, most_units=CAP, excused_units=12)
    if restart:
        ledger.unbilled = ledger._asked.load(set())
        voucher_signer = signer_of(ledger, Node())
    with asking(voucher_signer, ASKED, CAP) as running:
        voucher_signer.keep(running)
        running.arrived_units, running.excused_units = 10, CAP
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 10, name=first.name))
        assert not running.seq and not voucher_signer._open_requests.ended()
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 50, name=running.name))
        assert running.seq
    assert not voucher_signer.standing.lost_units and not voucher_signer.fault


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_an_answer_without_a_letter_is_billed_its_prompt(
    voucher_signer: VoucherSigner, ledger: BuyerLedger, runs: bool, restart: bool
) -> None:
    """A server on the way took the names out. The bill of a prompt went to the equal answer of
    which more had arrived, because nothing had arrived of its own; both were held to be losses."""
    left(voucher_signer, 40, most_units=CAP, prompt_units=20, excused_units=24)
    if not runs:
        known: dict[str, Any] = {"prompt_units": 20, "arrived_units": 30, "excused_units": 34}
        left(voucher_signer, 40, most_units=CAP, **known)
    if restart:
        ledger.unbilled = ledger._asked.load(set())
        voucher_signer = signer_of(ledger, Node())
    with asking(voucher_signer, ASKED, CAP) as other:
        if runs:
            other.arrived_units, other.prompt_units, other.excused_units = 20, 20, CAP
        else:
            assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 30))
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 20))
        assert not other.seq and not voucher_signer._open_requests.ended()
    assert not voucher_signer.standing.lost_units and not voucher_signer.standing.broken


async def test_a_bill_of_an_answer_that_nobody_reads_holds_no_later_bill_up(
    voucher_signer: VoucherSigner,
) -> None:
    """It waited for its own answer, and with it all bills after it: what they were for added up as
    never billed, and ended the trust."""
    with asking(voucher_signer, ASKED, 12) as paused:
        voucher_signer.keep(paused)
        paused.most_units = paused.asked_units = CAP
        with asking(voucher_signer, ASKED, 12):
            await voucher_signer.cover(ASKED, required_units=50, wanted_units=0)
        assert not voucher_signer.take_late(receipt(voucher_signer, ASKED, 50))
        first = receipt(voucher_signer, ASKED, 50, name=paused.name)
        assert voucher_signer.take_late(first) and paused.seq == 1
        later = left(voucher_signer, 4, most_units=CAP, excused_units=4)
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 4, name=later.name))
        voucher_signer.take(first, paused)
    assert not voucher_signer.standing.lost_units and not voucher_signer.fault


async def test_fair_bills_that_came_late_accuse_nobody(voucher_signer: VoucherSigner) -> None:
    """A node whose disk was full billed what broke off when there was room, some seconds later.

    The vouchers of the next question were signed by then: three such moments ended the trust.
    """
    for number in range(BROKEN_ALLOWED + 1):
        billed = 16 * number
        with asking(voucher_signer, ASKED, 8) as one, asking(voucher_signer, ASKED, 8) as two:
            await voucher_signer.cover(ASKED, required_units=billed + 12, wanted_units=0)
            left(voucher_signer, 1, broken=True)  # it never reached the node
            for each in (one, two):
                each.arrived_units, each.excused_units = 5, 7
                voucher_signer.keep(each)
                voucher_signer.leave_unreceipted(each, broken=True)
        with asking(voucher_signer, ASKED, 4):
            await voucher_signer.cover(ASKED, required_units=billed + 14, wanted_units=0)
        assert len(voucher_signer.standing.broken) == 1
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
        assert len(voucher_signer.standing.broken) == 1, "one answer of two has no bill yet"
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 6))
        assert not voucher_signer.standing.broken
        voucher_signer.answered(empty=False)
        with asking(voucher_signer, ASKED, 5) as whole:
            voucher_signer.take(receipt(voucher_signer, ASKED, 5), whole)
    assert not voucher_signer.fault


def test_a_stall_that_is_billed_for_what_arrived_is_none(voucher_signer: VoucherSigner) -> None:
    """A user stopped a slow answer, which cost what had arrived: three such ended the trust."""
    for _ in range(BROKEN_ALLOWED + 1):
        waited: dict[str, Any] = {"waits_since_s": time.monotonic() - STALLED_S - 1}
        known = {**waited, "most_units": CAP, "arrived_units": 5, "excused_units": 7}
        answer = left(voucher_signer, 12, **known)
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 5, name=answer.name))
    assert not voucher_signer.standing.broken and not voucher_signer.standing.lost_units


async def test_a_node_that_does_not_see_a_break_goes_on_with_what_is_signed(
    voucher_signer: VoucherSigner,
) -> None:
    """Three silent breaks of a network among a dozen answers ended the trust, over 440 units.

    What did not arrive is lost all the same, and that is bounded.
    """
    for number in range(BROKEN_ALLOWED + 1):
        with asking(voucher_signer, ASKED, 12) as answer:
            voucher_signer.keep(answer)
            signed = 12 * number + 12
            await voucher_signer.cover(ASKED, required_units=signed, wanted_units=0)
            answer.most_units, answer.arrived_units, answer.excused_units = CAP, 4, 6
            answer.cut = True
            voucher_signer.leave_unreceipted(answer, broken=True)
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 12, name=answer.name))
    assert not voucher_signer.standing.broken and not voucher_signer.fault
    assert voucher_signer.standing.lost_units == 8 * (BROKEN_ALLOWED + 1)


async def test_a_network_that_cuts_every_answer_is_paid_for_few(
    voucher_signer: VoucherSigner, ledger: BuyerLedger
) -> None:
    """A node that cut the line after one word of each answer was paid for 60 whole answers.

    An answer that ends well begins the count anew; a start of the buyer does not.
    """
    cuts = 0
    for well in (CUTS_ALLOWED - 2, -1):
        for number in range(CUTS_ALLOWED):
            assert not voucher_signer.fault, cuts
            if number == CUTS_ALLOWED // 2:
                voucher_signer = signer_of(ledger, Node())
            answer = left(
                voucher_signer, 12, broken=True, most_units=CAP, arrived_units=4, cut=True
            )
            assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 12, name=answer.name))
            cuts += 1
            if number == well:
                voucher_signer.answered(empty=False)
                break
    assert "were cut off after some text" in voucher_signer.fault
    voucher_signer.forgive(0)
    assert not voucher_signer.fault


def test_a_late_bill_costs_no_more_than_its_own_tokens(
    voucher_signer: VoucherSigner, ledger: BuyerLedger
) -> None:
    """It was compared with what had arrived and a step alone: 266 units of tokens for 458."""
    price = Price(2_000_000, 6_000_000)
    for restart in (False, True):
        known: dict[str, Any] = {"most_units": CAP, "arrived_units": 5, "price": price}
        answer = left(voucher_signer, 40, **known)
        if restart:
            ledger.unbilled = ledger._asked.load(set())
            voucher_signer = signer_of(ledger, Node())
        bill = receipt(voucher_signer, ASKED, 27, name=answer.name, tokens=(1, 4))
        with pytest.raises(NodeNotTrusted, match="bills more than its tokens cost"):
            voucher_signer.take_late(bill)
        assert voucher_signer.take_late(
            receipt(voucher_signer, ASKED, 26, name=answer.name, tokens=(1, 4))
        )


def test_an_overbilling_bill_finds_no_request_by_another_hash(
    voucher_signer: VoucherSigner,
) -> None:
    """The node signs any hash: a bill that its own tokens do not cost is no request's of ours."""
    price = Price(2_000_000, 6_000_000)
    answer = left(voucher_signer, 40, most_units=CAP, arrived_units=5, price=price)
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 27, b"other", tokens=(1, 4))), (
        "it is within what is signed, and counts as a broken answer's"
    )
    assert not answer.seq and voucher_signer.standing.lost_units == 27


def test_what_is_signed_after_an_answer_ended_may_be_billed_for_it(
    voucher_signer: VoucherSigner, ledger: BuyerLedger
) -> None:
    """A node that does not see a dead connection spends on it what the next answer signs: a loss,
    at most; it was a lie, and the first such bill ended the trust."""
    left(voucher_signer, 12, most_units=CAP, arrived_units=5, excused_units=7)
    vector = {ASKED: 40}
    points = {**ledger.channel.points, 40: vector}
    ledger.channel = replace(ledger.channel, vector=vector, points=points)
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 40))
    assert voucher_signer.standing.lost_units == 33 and not voucher_signer.fault


def test_a_bill_for_another_text_excuses_nothing_where_the_buyer_left(
    voucher_signer: VoucherSigner,
) -> None:
    """A receipt for another text, read as the buyer left, took the bill out of the account."""
    left(voucher_signer, 12, most_units=CAP, arrived_units=5, excused_units=0)
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 12))
    assert voucher_signer.standing.lost_units == 7


def test_what_is_signed_may_be_billed_above_the_cap_of_one_answer(
    voucher_signer: VoucherSigner, ledger: BuyerLedger
) -> None:
    """The buyer left a slow answer, which the node ended by other answers' vouchers: a loss."""
    left(voucher_signer, 12, most_units=CAP, asked_units=CAP + 9, arrived_units=5, excused_units=7)
    vector = {ASKED: 2 * CAP}
    points = {**ledger.channel.points, 2 * CAP: vector}
    ledger.channel = replace(ledger.channel, vector=vector, points=points)
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, CAP + 9))
    assert voucher_signer.standing.lost_units == CAP + 2 and not voucher_signer.fault


def counted(voucher_signer: VoucherSigner, *, said: str, tokens: tuple[int, int]) -> OpenRequest:
    """Ask, and get a text without its receipt, whose tokens are known."""
    known: dict[str, Any] = {
        "text": said.encode(),
        "tokens": tokens,
        "arrived_units": 20,
        "incident": "1",
    }
    return left(voucher_signer, 30, most_units=CAP, price=Price(1_000_000, 1_000_000), **known)


@pytest.mark.parametrize("again", [False, True], ids=["", "in a later process"])
@pytest.mark.parametrize(
    ("request_", "said", "tokens", "fault"),
    [
        (QUESTION, "high", (12, 8), ""),
        (QUESTION, "high", (12, 9), "counts other tokens"),
        (QUESTION, "high", (12, 7), "counts other tokens"),
        (QUESTION, "high", (13, 8), "counts too many prompt tokens"),
        (QUESTION, "high and low", (13, 12), "counts too many prompt tokens"),
        (QUESTION, "high and low", (12, 12), ""),
        (b"another body", "high", (13, 9), ""),
    ],
)
async def test_a_late_receipt_is_counted_as_one_in_the_stream(
    voucher_signer: VoucherSigner,
    tmp_path: Path,
    ledger: BuyerLedger,
    node: Node,
    request_: bytes,
    said: str,
    tokens: tuple[int, int],
    fault: str,
    again: bool,
) -> None:
    """Twenty tokens too many were paid. A longer text, or another body, is no lie by itself."""
    await sign_ahead(voucher_signer, 30)
    counted(voucher_signer, said="high", tokens=(12, 8))
    signer = Restarting(tmp_path, ledger, node).again() if again else voucher_signer
    units = sum(tokens)
    signed = receipt(signer, ASKED, units, request_, tokens=tokens, said=said)
    if not fault:
        assert signer.take_late(signed)
        assert signer.channel.billed_units(ASKED) == units
        return
    with pytest.raises(NodeNotTrusted, match=fault):
        signer.take_late(signed)
    assert signer.channel.billed_units(ASKED) == 0


async def test_a_receipt_that_came_early_is_counted_when_its_answer_ends(
    voucher_signer: VoucherSigner,
) -> None:
    """It is taken for a request that still runs, whose text cannot be compared yet."""
    await sign_ahead(voucher_signer, 30)
    with asking(voucher_signer, ASKED, 30) as opened:
        voucher_signer.keep(opened)
        signed = receipt(voucher_signer, ASKED, 21, tokens=(12, 9), said="high")
        assert voucher_signer.take_late(signed) and not voucher_signer.fault
        opened.text, opened.tokens = b"high", (12, 8)
        voucher_signer.leave_unreceipted(opened, broken=True)
    assert "counts other tokens" in voucher_signer.fault
