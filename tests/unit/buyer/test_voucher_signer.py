"""What a buyer's signature may cost, whatever its node says and whenever it says it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.signing import (
    ASKED,
    CAP,
    NODE_KEY,
    OTHER,
    QUESTION,
    Node,
    Restarting,
    asking,
    left,
    receipt,
)
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer.ledger import open_requests as exposure_module
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.node_standing import BROKEN_ALLOWED, BROKEN_AMONG, EMPTY_ALLOWED, NodeStanding
from viz.buyer.terms.checks import Limits
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.eip712 import public_address, sign
from viz.domain.ports.chain import ChannelState
from viz.domain.units import ZERO_HASH, AdapterId, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import BooksMismatch, NodeNotTrusted, PriceAboveCap
from viz.protocol.messages import ChannelView


@pytest.fixture
def ledger(tmp_path: Path) -> BuyerLedger:
    ledger = opened(tmp_path)
    observe(ledger, 1_000, 0)
    ledger.commit_standing(NodeStanding((NODE,), 1_000, allowed_units=CAP))
    return ledger


async def test_an_answer_that_was_left_is_not_forgotten_before_its_bill(
    voucher_signer: VoucherSigner, node: Node
) -> None:
    """A sync may come before the node has billed: what was left stays accounted for, for once."""
    left(voucher_signer, 40)
    voucher_signer.all_receipts_known()
    with asking(voucher_signer, ASKED, 10):
        await voucher_signer.cover(ASKED, required_units=50, wanted_units=50)
    assert node.taken[-1].row.lines == (UsageLine(ASKED, 50),)
    voucher_signer.take_late(receipt(voucher_signer, ASKED, 35))
    assert not voucher_signer.lacks_receipts and voucher_signer.ceiling_units(ASKED) == 35


async def test_an_answer_that_is_never_billed_is_forgotten_in_the_end(
    voucher_signer: VoucherSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that failed at the node has no receipt: its allowance does not stay for ever."""
    left(voucher_signer, 40)
    monkeypatch.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
    voucher_signer.all_receipts_known()
    assert not voucher_signer.lacks_receipts
    with pytest.raises(PriceAboveCap):
        await voucher_signer.cover(ASKED, required_units=1, wanted_units=1)


def test_a_bill_that_comes_very_late_is_still_the_requests(
    voucher_signer: VoucherSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hung for minutes may bill what it did; the allowance for others is untouched."""
    monkeypatch.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
    for _ in range(3):
        left(voucher_signer, 40)
        voucher_signer.all_receipts_known()
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 40))
    assert voucher_signer.channel.billed_units(ASKED) == 120 > CAP


@pytest.mark.parametrize("units", [1, CAP])
async def test_an_adapter_that_was_not_asked_for_gets_nothing(
    voucher_signer: VoucherSigner, node: Node, units: int
) -> None:
    """Protects a work's owner: a node cannot steer what one adapter costs to another one."""
    with asking(voucher_signer, ASKED, CAP):
        with pytest.raises(PriceAboveCap):
            await voucher_signer.cover(OTHER, required_units=units, wanted_units=units)
        await voucher_signer.cover(ASKED, required_units=0, wanted_units=0)
    assert not node.taken and not voucher_signer.channel.vector


@pytest.mark.parametrize("adapter_id", [ASKED, OTHER])
def test_a_receipt_that_nothing_accounts_for_is_refused(
    voucher_signer: VoucherSigner, adapter_id: AdapterId
) -> None:
    """A node cannot write itself receipts and be owed for them: no ledger line, no allowance."""
    left(voucher_signer, 40)
    before = voucher_signer.channel
    with pytest.raises(NodeNotTrusted, match="one step" if adapter_id == ASKED else "no request"):
        voucher_signer.take_late(receipt(voucher_signer, adapter_id, 41))
    with pytest.raises(NodeNotTrusted, match="no request") as refused:
        voucher_signer.take_late(receipt(voucher_signer, adapter_id, 1, b"what nobody asked"))
    assert voucher_signer.channel == before
    voucher_signer.distrust(refused.value.detail)
    with pytest.raises(NodeNotTrusted, match="`viz channel forgive` does not help"):
        voucher_signer.require_trust()


async def test_a_bill_of_a_repeated_request_is_a_broken_answers(
    voucher_signer: VoucherSigner, node: Node, tmp_path: Path
) -> None:
    """A server on the way took the name out of the request and repeated it: no lie, but bounded.

    More than what was signed ahead is never billed so by an honest node.
    """
    for number in range(BROKEN_ALLOWED):
        assert not voucher_signer.fault
        with asking(voucher_signer, ASKED, 10) as open_request:
            signed = 15 * number + 15
            open_request.units = 20
            await voucher_signer.cover(ASKED, required_units=signed, wanted_units=0)
            voucher_signer.take(receipt(voucher_signer, ASKED, 10), open_request)
        with pytest.raises(NodeNotTrusted, match="no request"):
            voucher_signer.take_late(receipt(voucher_signer, ASKED, 6))
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    assert voucher_signer.channel.billed_units(ASKED) == signed
    with pytest.raises(NodeNotTrusted, match="`viz channel forgive` lets"):
        voucher_signer.require_trust()


async def test_a_repetitions_bill_that_came_first_is_not_the_answers(
    voucher_signer: VoucherSigner,
) -> None:
    """Found while the answer arrives, it was taken for the answer's own; then that came twice."""
    with asking(voucher_signer, ASKED, 10) as open_request:
        assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 10))
        voucher_signer.take(receipt(voucher_signer, ASKED, 10), open_request)
        assert open_request.seq == 2
        with pytest.raises(NodeNotTrusted, match="twice"):
            voucher_signer.take(receipt(voucher_signer, ASKED, 10), open_request)
    assert len(voucher_signer.standing.broken) == 1 and not voucher_signer.fault


async def test_what_was_delivered_on_credit_is_owed_with_the_next_voucher(
    voucher_signer: VoucherSigner, node: Node
) -> None:
    """A node with a credit window takes no voucher that leaves out what it advanced elsewhere."""
    with asking(voucher_signer, ASKED, 20) as open_request:
        voucher_signer.take(receipt(voucher_signer, ASKED, 20), open_request)
    with asking(voucher_signer, OTHER, 7):
        await voucher_signer.cover(OTHER, required_units=7, wanted_units=7)
    assert node.taken[-1].row.lines == (UsageLine(ASKED, 20), UsageLine(OTHER, 7))


async def test_a_node_cannot_pay_itself_with_receipts_for_one_request(
    voucher_signer: VoucherSigner, node: Node
) -> None:
    """One request, any number of true signatures: it is billed once, the rest is refused."""
    with asking(voucher_signer, ASKED, 40):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 40))
        for again in (40, 1):
            with pytest.raises(NodeNotTrusted, match="no request"):
                voucher_signer.take_late(receipt(voucher_signer, ASKED, again))
        with pytest.raises(NodeNotTrusted, match="no request"):
            voucher_signer.take_late(receipt(voucher_signer, ASKED, 40, b"what nobody asked"))
        with pytest.raises(PriceAboveCap):
            await voucher_signer.cover(ASKED, required_units=41, wanted_units=0)


@pytest.mark.parametrize("fell", ["another price was agreed", "its bill came"])
async def test_a_ceiling_is_judged_when_it_is_signed(
    voucher_signer: VoucherSigner, node: Node, fell: str
) -> None:
    """A voucher waits its turn; what its request may cost falls meanwhile, and so does the most."""
    node.answers.clear()
    with asking(voucher_signer, OTHER, 10), asking(voucher_signer, ASKED, 40) as open_request:
        first = asyncio.create_task(voucher_signer.cover(OTHER, required_units=10, wanted_units=10))
        await asyncio.sleep(0)
        waiting = [
            asyncio.create_task(voucher_signer.cover(ASKED, required_units=each, wanted_units=40))
            for each in (40, 5)
        ]
        await asyncio.sleep(0)
        assert len(node.taken) == 1
        if fell == "its bill came":
            voucher_signer.take(receipt(voucher_signer, ASKED, 5), open_request)
        else:
            open_request.units = 5
        node.answers.set()
        await first
        refused, _ = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(refused, PriceAboveCap)
    assert voucher_signer.channel.signed_units(ASKED) == 5


def test_an_answer_is_billed_by_one_receipt(voucher_signer: VoucherSigner) -> None:
    """A second receipt within the answer would pay for the same text again."""
    with asking(voucher_signer, ASKED, 40) as open_request:
        voucher_signer.take(receipt(voucher_signer, ASKED, 40), open_request)
        assert voucher_signer.ceiling_units(ASKED) == 40
        before = voucher_signer.channel
        with pytest.raises(NodeNotTrusted, match="twice"):
            voucher_signer.take(receipt(voucher_signer, ASKED, 40), open_request)
        assert voucher_signer.channel == before


def test_equal_requests_may_have_each_others_receipt(voucher_signer: VoucherSigner) -> None:
    """A receipt says what was asked, not by whom: of two equal requests each is billed once."""
    with asking(voucher_signer, ASKED, 10) as one, asking(voucher_signer, ASKED, 10) as two:
        first = receipt(voucher_signer, ASKED, 10)
        voucher_signer.take_late(first)
        mistaken, other = (one, two) if one.seq else (two, one)
        voucher_signer.take(first, other)
        voucher_signer.take(receipt(voucher_signer, ASKED, 10), mistaken)
        assert (other.seq, mistaken.seq) == (1, 2) and voucher_signer.ceiling_units(ASKED) == 20


def test_a_node_that_breaks_off_every_answer_is_not_paid_for_all(
    voucher_signer: VoucherSigner,
) -> None:
    """What ended without a receipt allows the cap for one request, however often it happens."""
    for _ in range(5):
        left(voucher_signer, 40)
    assert voucher_signer.ceiling_units(ASKED) == CAP


def test_a_receipt_for_nothing_is_refused(voucher_signer: VoucherSigner) -> None:
    """A chain of empty receipts would keep a buyer reading for ever."""
    signed = receipt(voucher_signer, ASKED, 0)
    said = replace(signed.receipt, usage_hash=usage_hash(()))
    signature = sign(NODE_KEY, voucher_signer.domain.digest(said))
    with pytest.raises(NodeNotTrusted, match="nothing"):
        voucher_signer.take_late(replace(signed, receipt=said, lines=(), signature=signature))


# what an earlier process asked


@pytest.fixture
def restarting(tmp_path: Path, ledger: BuyerLedger, node: Node) -> Restarting:
    return Restarting(tmp_path, ledger, node)


async def test_a_request_outlives_its_process_and_is_billed_once(
    voucher_signer: VoucherSigner, restarting: Restarting
) -> None:
    """What a killed process asked may cost what it signed, by one receipt, and no more."""
    with voucher_signer.open_request(ASKED, QUESTION) as open_request:
        open_request.units, open_request.most_units = 20, 50
        voucher_signer.keep(open_request)
        open_request.units = 30
        await voucher_signer.cover(ASKED, required_units=30, wanted_units=30)
        voucher_signer = restarting.again()
    for adapter_id, units, request in (
        (OTHER, 1, QUESTION),
        (ASKED, 31, b"what nobody asked"),
        (ASKED, 31, QUESTION),
    ):
        with pytest.raises(NodeNotTrusted):
            voucher_signer.take_late(receipt(voucher_signer, adapter_id, units, request))
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 30))
    for _ in range(2):
        with pytest.raises(NodeNotTrusted, match="no request"):
            voucher_signer.take_late(receipt(voucher_signer, ASKED, 1))
        voucher_signer = restarting.again()
    assert voucher_signer.channel.billed_units(ASKED) == 30 == voucher_signer.ceiling_units(ASKED)


def test_nothing_of_a_request_stays_on_disk_once_its_bill_is_safe(
    voucher_signer: VoucherSigner, restarting: Restarting, tmp_path: Path
) -> None:
    """Its text is no longer needed; it goes with the first line that is synced after its bill."""

    def files() -> list[Path]:
        return list(tmp_path.rglob("*.request"))

    with asking(voucher_signer, ASKED, 10) as open_request:
        voucher_signer.keep(open_request)
        (file,) = files()
        assert QUESTION in file.read_bytes() and file.stat().st_mode & 0o77 == 0
        assert file.parent.stat().st_mode & 0o77 == 0
        voucher_signer.take(receipt(voucher_signer, ASKED, 10), open_request)
    assert files() == [file], "its bill may be lost with the machine"
    restarting.again()
    assert files() == []


def test_a_request_that_was_refused_cannot_be_billed(
    voucher_signer: VoucherSigner, restarting: Restarting
) -> None:
    """A 4xx is no service: a receipt for it later is refused."""
    with asking(voucher_signer, ASKED, 40) as open_request:
        voucher_signer.keep(open_request)
        voucher_signer.drop(open_request)
    for each in (voucher_signer, restarting.again()):
        with pytest.raises(NodeNotTrusted, match="no request"):
            each.take_late(receipt(each, ASKED, 1))


@pytest.mark.parametrize("restart", [False, True])
def test_the_allowance_is_the_buyers_and_is_kept(
    voucher_signer: VoucherSigner, restarting: Restarting, restart: bool
) -> None:
    """What it allows beyond what arrived is 0 at first, and used up once in all its processes."""

    def next_process(voucher_signer: VoucherSigner) -> VoucherSigner:
        return restarting.again() if restart else voucher_signer

    left(voucher_signer, 10)
    voucher_signer = next_process(voucher_signer)
    with pytest.raises(NodeNotTrusted, match="one step"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 11))
    voucher_signer.forgive(forgiven_units=25)
    voucher_signer = next_process(voucher_signer)
    with pytest.raises(NodeNotTrusted, match="no request"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 1, b"what nobody asked"))
    with pytest.raises(NodeNotTrusted, match="no request"):
        voucher_signer.take_late(receipt(voucher_signer, OTHER, 1))
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 30))  # 20 beyond
    voucher_signer = next_process(voucher_signer)
    left(voucher_signer, 10)
    voucher_signer = next_process(voucher_signer)
    with pytest.raises(NodeNotTrusted, match="one step"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 16))
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 15))


# answers that a node breaks off


@pytest.mark.parametrize("restart", [False, True])
async def test_what_broke_off_is_no_dead_end(
    voucher_signer: VoucherSigner,
    restarting: Restarting,
    node: Node,
    restart: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed node booked what it delivered and lost the bill: new work is signed for beyond it.

    Of what broke off no more is allowed than was signed already, however often it is asked.
    """
    with asking(voucher_signer, ASKED, 30) as open_request:
        voucher_signer.keep(open_request)
        await voucher_signer.cover(ASKED, required_units=20, wanted_units=20)
        voucher_signer.leave_unreceipted(open_request, broken=True)
    if restart:
        voucher_signer = restarting.again()
    monkeypatch.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
    for round_ in range(1, 6):
        voucher_signer.all_receipts_known()
        spent = 10 * (round_ - 1)
        assert voucher_signer.ceiling_units(ASKED) == spent + 20
        with asking(voucher_signer, ASKED, 10) as open_request:
            with pytest.raises(PriceAboveCap):
                await voucher_signer.cover(ASKED, required_units=spent + 31, wanted_units=0)
            await voucher_signer.cover(ASKED, required_units=spent + 30, wanted_units=0)
            voucher_signer.take(receipt(voucher_signer, ASKED, 10), open_request)
    assert (
        voucher_signer.channel.signed_units(ASKED) == 70
        and voucher_signer.channel.billed_units(ASKED) == 50
    )


@pytest.mark.parametrize("restart", [False, True])
def test_a_node_that_bills_what_it_broke_off_is_left_after_a_few(
    voucher_signer: VoucherSigner, restarting: Restarting, restart: bool
) -> None:
    """A few of so many receipts may be mishaps; then nothing is asked until the buyer forgives."""
    for _ in range(BROKEN_ALLOWED):
        voucher_signer.require_trust()
        left(voucher_signer, 5, broken=True)
        voucher_signer = restarting.again() if restart else voucher_signer
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    for each in (voucher_signer, restarting.again()):
        with pytest.raises(NodeNotTrusted, match=r"broke off .*`viz channel forgive`"):
            each.require_trust()
    voucher_signer = restarting.again()
    voucher_signer.forgive()
    restarting.again().require_trust()


def test_answers_that_break_off_together_are_one_mishap(voucher_signer: VoucherSigner) -> None:
    """A node that restarts breaks off all that is under way, and is not left for it."""
    with (
        asking(voucher_signer, ASKED, 5) as one,
        asking(voucher_signer, ASKED, 5) as two,
        asking(voucher_signer, ASKED, 5),
    ):
        for each in (one, two):
            voucher_signer.leave_unreceipted(each, broken=True)
    for _ in range(2):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    assert len(voucher_signer.standing.broken) == 1


def test_mishaps_far_apart_are_forgotten(voucher_signer: VoucherSigner) -> None:
    """A line that breaks once in a while is no reason to leave a node."""
    for _ in range(2 * BROKEN_ALLOWED):
        left(voucher_signer, 1, broken=True)
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 1))
        for _ in range(BROKEN_AMONG // 2):
            with asking(voucher_signer, ASKED, 1) as open_request:
                voucher_signer.take(receipt(voucher_signer, ASKED, 1), open_request)
    voucher_signer.require_trust()


def test_who_leaves_itself_holds_nothing_against_the_node(voucher_signer: VoucherSigner) -> None:
    """A program that was stopped is billed for what was sent to it, as often as it likes."""
    for _ in range(4 * BROKEN_ALLOWED):
        left(voucher_signer, 5, arrived_units=4, excused_units=5)
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    voucher_signer.require_trust()


@pytest.mark.parametrize("restart", [False, True])
def test_who_leaves_at_once_pays_the_prompt_and_blames_nobody(
    voucher_signer: VoucherSigner, restarting: Restarting, restart: bool
) -> None:
    """A program that asks anew at every letter leaves before any text: an honest bill of the prompt
    and of what was in transit is not held against the node, however often it comes."""
    for _ in range(4 * BROKEN_ALLOWED):
        left(voucher_signer, 40, excused_units=5)
        voucher_signer = restarting.again() if restart else voucher_signer
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    voucher_signer.require_trust()
    assert not voucher_signer.standing.broken


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "known",
    [
        {"excused_units": 4},
        {"excused_units": 5, "waits_since_s": -1e9},
        {"arrived_units": 1, "excused_units": 5, "waits_since_s": -1e9},
    ],
    ids=["a step, and no text came", "the prompt, after a long wait", "it stalled in the text"],
)
def test_a_node_that_lets_the_buyer_wait_and_bills_is_left(
    voucher_signer: VoucherSigner, restarting: Restarting, restart: bool, known: dict[str, Any]
) -> None:
    """The buyer's program gives up, so the buyer ends the answer: the bill without an answer counts
    as one that the node broke off."""
    for _ in range(BROKEN_ALLOWED):
        voucher_signer.require_trust()
        left(voucher_signer, 40, **known)
        voucher_signer = restarting.again() if restart else voucher_signer
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    with pytest.raises(NodeNotTrusted, match="broke off answers, or let them wait"):
        voucher_signer.require_trust()


def test_an_answer_that_was_left_is_billed_by_the_nodes_own_step(
    voucher_signer: VoucherSigner,
) -> None:
    """What the buyer's limits would allow of a step does not matter where it left by itself."""
    left(voucher_signer, 40, leaving_units=10)
    with pytest.raises(NodeNotTrusted, match="one step"):
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 11))
    assert voucher_signer.take_late(receipt(voucher_signer, ASKED, 10))


def test_small_excesses_add_up(voucher_signer: VoucherSigner) -> None:
    """A bill of a little more than arrived, whenever the buyer leaves, is bounded in all."""
    for _ in range(2 * CAP + 1):
        left(voucher_signer, 40, arrived_units=3, excused_units=4)
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
        if voucher_signer.fault:
            break
    assert CAP < voucher_signer.channel.billed_units(ASKED) <= 5 * (CAP + 1)
    with pytest.raises(NodeNotTrusted, match="did not arrive"):
        voucher_signer.require_trust()


def test_a_bill_that_is_found_before_its_answer_breaks_off_counts(
    voucher_signer: VoucherSigner,
) -> None:
    """The order in which a node hands out the bill and hangs up is the node's to choose."""
    for _ in range(BROKEN_ALLOWED):
        with asking(voucher_signer, ASKED, 5) as open_request:
            voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
            assert not voucher_signer.fault
            voucher_signer.leave_unreceipted(open_request, broken=True)
    with pytest.raises(NodeNotTrusted, match="broke off"):
        voucher_signer.require_trust()


def test_one_mishap_of_many_answers_weighs_what_they_cost(voucher_signer: VoucherSigner) -> None:
    """A batch that is broken off before its first letter is one mishap, and is not free."""
    with ExitStack() as stack:
        batch = [stack.enter_context(asking(voucher_signer, ASKED, 5)) for _ in range(20)]
        for each in batch:
            voucher_signer.leave_unreceipted(each, broken=True)
        for _ in batch:
            if not voucher_signer.fault:
                voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
    assert len(voucher_signer.standing.broken) == 1
    assert voucher_signer.channel.billed_units(ASKED) == CAP + 5
    with pytest.raises(NodeNotTrusted, match="did not arrive"):
        voucher_signer.require_trust()


def test_bills_without_an_answer_move_no_mishap_out_of_sight(
    voucher_signer: VoucherSigner,
) -> None:
    """Only what was delivered lets a mishap be forgotten, so a node cannot forget it by itself."""
    for _ in range(BROKEN_ALLOWED):
        with ExitStack() as stack:
            batch = [
                stack.enter_context(asking(voucher_signer, ASKED, 1))
                for _ in range(BROKEN_AMONG + 1)
            ]
            for each in batch:
                each.arrived_units = 1
                voucher_signer.leave_unreceipted(each, broken=True)
            for _ in batch:
                voucher_signer.take_late(receipt(voucher_signer, ASKED, 1))
    with pytest.raises(NodeNotTrusted, match="broke off"):
        voucher_signer.require_trust()


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_of_empty_answers_is_held_against_the_node(
    voucher_signer: VoucherSigner, restarting: Restarting, restart: bool
) -> None:
    """Each is billed for its prompt and ends well; one answer with text ends the run."""

    def answered(*, empty: bool) -> None:
        with asking(voucher_signer, ASKED, 1) as open_request:
            voucher_signer.take(receipt(voucher_signer, ASKED, 1), open_request)
            voucher_signer.answered(empty=empty)

    for number in range(2 * EMPTY_ALLOWED - 1):
        voucher_signer.require_trust()
        answered(empty=number != EMPTY_ALLOWED - 1)
        voucher_signer = restarting.again() if restart else voucher_signer
    voucher_signer.require_trust()
    answered(empty=True)
    with pytest.raises(NodeNotTrusted, match="no text"):
        voucher_signer.require_trust()


async def test_breaks_that_are_paid_for_without_a_bill_count_as_well(
    voucher_signer: VoucherSigner, node: Node
) -> None:
    """A node that never bills what it broke off, and demands it, is left all the same."""
    for number in range(BROKEN_ALLOWED):
        left(voucher_signer, 5, broken=True)
        with asking(voucher_signer, ASKED, 5):
            demand = 5 * number + 10
            if number < BROKEN_ALLOWED - 1:
                await voucher_signer.cover(ASKED, required_units=demand, wanted_units=0)
            else:
                with pytest.raises(NodeNotTrusted, match="broke off"):
                    await voucher_signer.cover(ASKED, required_units=demand, wanted_units=0)


async def test_a_batch_that_is_paid_for_without_a_bill_weighs_what_it_cost(
    ledger: BuyerLedger, node: Node
) -> None:
    """64 answers broken off together are one mishap, and their vouchers paid for all of them.

    What arrived is owed, and costs no trust. What was signed ahead for the batch (120 units) may be
    lost once: the buyer's own width made it so much.
    """
    limits = Limits(request_units=300)
    voucher_signer = VoucherSigner(cast(NodeClient, node), ledger, DEPLOYMENT, limits)
    for demand in (120, 240):
        with ExitStack() as stack:
            batch = [stack.enter_context(asking(voucher_signer, ASKED, 8)) for _ in range(15)]
            await voucher_signer.cover(ASKED, required_units=demand, wanted_units=0)
            for each in batch[:7]:
                each.arrived_units = 8
            for each in batch:
                voucher_signer.leave_unreceipted(each, broken=True)
        assert voucher_signer.standing.allowed_units == 120 and not voucher_signer.fault
    with asking(voucher_signer, ASKED, 5):
        await voucher_signer.cover(ASKED, required_units=180, wanted_units=0)
        assert not voucher_signer.fault
        with pytest.raises(NodeNotTrusted, match="did not bill them"):
            await voucher_signer.cover(ASKED, required_units=245, wanted_units=0)


def test_what_mishaps_cost_adds_up_to_a_share_of_all_bills(voucher_signer: VoucherSigner) -> None:
    """Two among 64 answers, for ever, and each far dearer than the answers: it was never enough.

    Mishaps at the price of the answers around them stay within the share.
    """

    def rob(cost: Units) -> None:
        for _ in range(BROKEN_ALLOWED - 1):
            left(voucher_signer, cost, broken=True)
            voucher_signer.take_late(receipt(voucher_signer, ASKED, cost))
        for _ in range(BROKEN_AMONG):
            with asking(voucher_signer, ASKED, 1) as open_request:
                voucher_signer.take(receipt(voucher_signer, ASKED, 1), open_request)

    for _ in range(2 * CAP):
        rob(1)
    assert not voucher_signer.fault
    rounds = 0
    while not voucher_signer.fault:
        rob(20)
        rounds += 1
    assert rounds < 10
    with pytest.raises(NodeNotTrusted, match=r"again and again.*`viz channel forgive` lets"):
        voucher_signer.require_trust()
    voucher_signer.forgive()
    assert voucher_signer.standing.lost_units == 0


# what a node says of the deposit


def view(voucher_signer: VoucherSigner, **said: Any) -> ChannelView:
    values: dict[str, Any] = {"payer": NODE, "deposit_units": 1_000, "settled_units": 0}
    return ChannelView(
        voucher_signer.channel.signer,
        NODE,
        close_at_s=0,
        base_units=0,
        best=(),
        lines=(),
        seq=voucher_signer.channel.seq,
        head=ZERO_HASH,
        **{**values, **said},
    )


def test_no_more_is_believed_than_was_signed_for(voucher_signer: VoucherSigner) -> None:
    """Without a chain a node may say that less is there, never more, and no other payer."""
    voucher_signer.note(view(voucher_signer, deposit_units=900))
    assert voucher_signer.channel.deposit_units == 900
    voucher_signer.note(view(voucher_signer, deposit_units=10**12))
    assert voucher_signer.channel.limit_units == 1_000
    with pytest.raises(NodeNotTrusted, match="--rpc"):
        voucher_signer.note(view(voucher_signer, payer=public_address(b"\x09" * 32)))
    with pytest.raises(BooksMismatch):
        voucher_signer.note(view(voucher_signer, settled_units=7))
    assert voucher_signer.channel.limit_units == 1_000


def test_where_a_chain_is_read_the_nodes_word_is_not(ledger: BuyerLedger, node: Node) -> None:
    """Deposit, payer, total and the close are the chain's; the node names its base alone."""
    voucher_signer = VoucherSigner(
        cast(NodeClient, node), ledger, DEPLOYMENT, Limits(), reads_chain=True
    )
    before = voucher_signer.channel
    lies = {"payer": voucher_signer.channel.signer, "deposit_units": 10**12, "settled_units": 999}
    voucher_signer.note(view(voucher_signer, **lies))
    assert voucher_signer.channel == before
    voucher_signer.observe(ChannelState(before.signer, NODE, NODE, 5_000, 0, 77))
    assert (voucher_signer.channel.limit_units, voucher_signer.channel.close_at_s) == (5_000, 77)
    with pytest.raises(BooksMismatch):
        voucher_signer.observe(ChannelState(before.signer, NODE, NODE, 5_000, 3, 0))
