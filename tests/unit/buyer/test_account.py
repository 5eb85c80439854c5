"""One account of what a node holds or billed and did not deliver; what a full disk does to it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.signing import (
    ASKED,
    CAP,
    OTHER,
    Node,
    Restarting,
    asking,
    left,
    receipt,
)
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer.ledger import open_requests as exposure_module
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.node_standing import LEAST_ALLOWED_UNITS, LOST_SHARE, NodeStanding
from viz.buyer.terms.checks import Limits
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.node_channel import PresentedVoucher
from viz.domain.units import AdapterId, Units
from viz.errors import (
    NodeNotTrusted,
    NodeRefused,
    PriceAboveCap,
    StaleVoucher,
    StoreError,
    TooMuchLeftOver,
)
from viz.protocol.messages import ChannelView
from viz.protocol.problems import error_of


@pytest.fixture
def ledger(tmp_path: Path) -> BuyerLedger:
    ledger = opened(tmp_path)
    observe(ledger, 100_000, 0)
    ledger.commit_standing(NodeStanding((NODE,), 100_000, allowed_units=CAP))
    return ledger


async def paid_and_broken(
    voucher_signer: VoucherSigner, adapter_id: AdapterId, units: Units, arrived_units: Units = 0
) -> None:
    """Sign a whole step for an answer, which then breaks off and is not billed."""
    with asking(voucher_signer, adapter_id, units) as open_request:
        voucher_signer.keep(open_request)
        signed = voucher_signer.channel.signed_units(adapter_id) + units
        await voucher_signer.cover(adapter_id, required_units=signed, wanted_units=0)
        open_request.arrived_units = arrived_units
        voucher_signer.leave_unreceipted(open_request, broken=True)


@pytest.mark.parametrize("restart", [False, True])
async def test_answers_that_break_off_at_one_adapter_after_another_add_up(
    voucher_signer: VoucherSigner, node: Node, ledger: BuyerLedger, tmp_path: Path, restart: bool
) -> None:
    """A step at each of many adapters, never billed: a step in all may be left, and one that runs.

    The account is not begun anew in the buyer's next process. Another adapter accuses nobody: what
    a break of the network left over is used up by the next answers of the adapters that broke off.
    """
    restarting = Restarting(tmp_path, ledger, node)
    with pytest.raises(TooMuchLeftOver, match=r"20 for adapter|for adapter 0"):
        for number in range(20):
            await paid_and_broken(voucher_signer, AdapterId(number), 20)
            voucher_signer = restarting.again() if restart else voucher_signer
    assert CAP < voucher_signer.channel.total_units <= CAP + 20
    voucher_signer.require_trust()
    with asking(voucher_signer, AdapterId(0), 20) as open_request:
        await voucher_signer.cover(AdapterId(0), required_units=20, wanted_units=0)
        voucher_signer.take(receipt(voucher_signer, AdapterId(0), 20), open_request)
    await paid_and_broken(voucher_signer, OTHER, 20)


@pytest.mark.parametrize("restart", [False, True])
async def test_what_answers_that_end_well_leave_over_adds_up(
    voucher_signer: VoucherSigner, node: Node, ledger: BuyerLedger, tmp_path: Path, restart: bool
) -> None:
    """A node demanded a step for each new adapter, delivered three letters, and billed those: what
    was left over was in no sum, 2,196,000 units after 40 questions."""
    restarting, refused = Restarting(tmp_path, ledger, node), 0
    for number in range(40):
        with asking(voucher_signer, AdapterId(number), 20) as open_request:
            try:
                await voucher_signer.cover(AdapterId(number), required_units=20, wanted_units=0)
            except TooMuchLeftOver:
                refused += 1
                voucher_signer.drop(open_request)
                continue
            voucher_signer.take(receipt(voucher_signer, AdapterId(number), 1), open_request)
        voucher_signer = restarting.again() if restart else voucher_signer
    billed_units = sum(voucher_signer.channel.billed.values())
    assert refused > 30
    assert voucher_signer.channel.total_units - billed_units <= CAP + billed_units + 20
    voucher_signer.require_trust()
    voucher_signer.forgive()
    await paid_and_broken(voucher_signer, OTHER, 20)


async def test_an_answer_that_began_in_time_is_paid_to_its_end(
    voucher_signer: VoucherSigner,
) -> None:
    """What other answers leave over meanwhile must not cut it off."""
    with asking(voucher_signer, OTHER, 20) as open_request:
        for number in range(4):
            await paid_and_broken(voucher_signer, AdapterId(number), 20)
        await voucher_signer.cover(OTHER, required_units=20, wanted_units=0)
        open_request.units = 30
        await voucher_signer.cover(OTHER, required_units=30, wanted_units=0)
    with asking(voucher_signer, AdapterId(50), 20), pytest.raises(TooMuchLeftOver):
        await voucher_signer.cover(AdapterId(50), required_units=20, wanted_units=0)


async def test_answers_that_share_vouchers_may_be_ahead_of_what_was_read(
    voucher_signer: VoucherSigner,
) -> None:
    """One reader that paused ended all other answers of its adapter: its own spent their vouchers.

    An answer alone is ahead of its reader by a step, and never by more than was asked for.
    """
    with asking(voucher_signer, ASKED, 10) as first:
        first.most_units = 40
        assert not voucher_signer.allows(ASKED, 11)
        with asking(voucher_signer, ASKED, 10) as second:
            second.most_units = 15
            await voucher_signer.cover(ASKED, required_units=55, wanted_units=100)
            assert voucher_signer.channel.signed_units(ASKED) == 55
            with pytest.raises(PriceAboveCap):
                await voucher_signer.cover(ASKED, required_units=56, wanted_units=0)
            first.most_units = 1_000
            assert voucher_signer.allows(ASKED, 20 + CAP)
            assert not voucher_signer.allows(ASKED, 21 + CAP)
    assert not voucher_signer.fault


async def test_text_that_nobody_read_accuses_no_lost_request(voucher_signer: VoucherSigner) -> None:
    """Requests that were lost on the way cost nothing. A reader that paused later made the demand,
    which counted for each of them: three ended the trust."""
    for _ in range(3):
        left(voucher_signer, 2, broken=True)
        voucher_signer.answered(empty=False)
    with asking(voucher_signer, ASKED, 10) as paused, asking(voucher_signer, ASKED, 10):
        paused.most_units = 40
        await voucher_signer.cover(ASKED, required_units=40, wanted_units=0)
    assert not voucher_signer.standing.broken and not voucher_signer.fault


async def test_a_command_with_a_small_cap_judges_by_the_channels_allowance(
    voucher_signer: VoucherSigner, node: Node, ledger: BuyerLedger, tmp_path: Path
) -> None:
    """One `--max-cost` below what was left over ended the trust for good, in every process."""
    await paid_and_broken(voucher_signer, ASKED, 40)
    ledger.close()
    ledger, limits = opened(tmp_path), Limits(request_units=10)
    small = VoucherSigner(cast(NodeClient, node), ledger, DEPLOYMENT, limits)
    with asking(small, OTHER, 5):
        await small.cover(OTHER, required_units=5, wanted_units=0)
    small.require_trust()
    assert NodeStanding().allowed_units == LEAST_ALLOWED_UNITS == Limits().step_units


async def test_what_was_signed_ahead_at_once_is_kept(
    voucher_signer: VoucherSigner, node: Node, ledger: BuyerLedger, tmp_path: Path
) -> None:
    """A break of the network costs what ran at once: eight answers of a step each, here."""
    with ExitStack() as stack:
        batch = [stack.enter_context(asking(voucher_signer, ASKED, 20)) for _ in range(8)]
        await voucher_signer.cover(ASKED, required_units=160, wanted_units=0)
        for each in batch:
            voucher_signer.keep(each)
            voucher_signer.leave_unreceipted(each, broken=True)
    voucher_signer = Restarting(tmp_path, ledger, node).again()
    assert voucher_signer.standing.allowed_units == 160
    with asking(voucher_signer, OTHER, 20):
        await voucher_signer.cover(OTHER, required_units=20, wanted_units=0)
    voucher_signer.require_trust()


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("bill", "breaks"), [(5, 0), (6, 3)])
def test_a_break_that_cost_what_was_on_the_line_is_no_incident(
    voucher_signer: VoucherSigner,
    node: Node,
    ledger: BuyerLedger,
    tmp_path: Path,
    restart: bool,
    bill: Units,
    breaks: int,
) -> None:
    """Three breaks of a bad line, with nothing lost, ended the trust."""
    restarting = Restarting(tmp_path, ledger, node)
    for _ in range(3):
        left(voucher_signer, 40, broken=True, arrived_units=4, excused_units=5)
        voucher_signer = restarting.again() if restart else voucher_signer
        voucher_signer.take_late(receipt(voucher_signer, ASKED, bill))
    assert len(voucher_signer.standing.broken) == breaks
    assert voucher_signer.standing.lost_units == 3 * (bill - 4)
    assert bool(voucher_signer.fault) == bool(breaks)


async def test_what_arrived_before_a_break_is_not_lost(voucher_signer: VoucherSigner) -> None:
    """A node whose answers break off late has delivered what it holds."""
    for number in range(20):
        await paid_and_broken(voucher_signer, AdapterId(number), 20, arrived_units=19)
    voucher_signer.require_trust()


async def test_an_account_that_is_full_signs_nothing_ahead(voucher_signer: VoucherSigner) -> None:
    """Text that arrives lets the buyer sign ahead; it waits for a demand then, which is judged."""
    for number in range(4):
        await paid_and_broken(voucher_signer, AdapterId(number), 20)
    with asking(voucher_signer, OTHER, 20):
        await voucher_signer.cover(OTHER, required_units=0, wanted_units=20)
        assert voucher_signer.channel.signed_units(OTHER) == 0 and not voucher_signer.fault


async def test_an_account_that_is_full_lets_no_voucher_ride(voucher_signer: VoucherSigner) -> None:
    """A voucher on the request itself is not judged, so there is none: the node must demand it."""
    voucher_signer.held.asks = True
    for number in range(4):
        with asking(voucher_signer, AdapterId(number), 20) as open_request:
            open_request.first_units = 20
            rides = voucher_signer.riding(open_request, 0)
        # The second half of what may be left over is for what nodes demand; what rode is in it.
        assert (rides is not None) == (number < 1)
        if rides:
            await paid_and_broken(voucher_signer, AdapterId(100 + number), 25)


async def test_a_broken_answer_that_is_forgotten_stays_in_the_account(
    voucher_signer: VoucherSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many requests are kept; what is signed for those beyond is lost for good."""
    monkeypatch.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
    monkeypatch.setattr(exposure_module, "GIVEN_UP_KEPT", 0)
    await paid_and_broken(voucher_signer, ASKED, 20)
    voucher_signer.all_receipts_known()
    assert voucher_signer.standing.lost_units == 20


async def test_forgiving_empties_the_account_in_later_processes_too(
    voucher_signer: VoucherSigner, node: Node, ledger: BuyerLedger, tmp_path: Path
) -> None:
    """What is signed stays signed, so it would end the trust again with the next voucher."""
    for number in range(4):
        await paid_and_broken(voucher_signer, AdapterId(number), 20)
    voucher_signer.forgive()
    voucher_signer = Restarting(tmp_path, ledger, node).again()
    await paid_and_broken(voucher_signer, OTHER, 20)
    voucher_signer.require_trust()


@pytest.mark.parametrize("restart", [False, True])
def test_bills_of_left_answers_add_up_for_ever(
    voucher_signer: VoucherSigner, node: Node, ledger: BuyerLedger, tmp_path: Path, restart: bool
) -> None:
    """Just below a step among 64 answers, for ever, was never enough: 206,400 units in 200 answers.

    Such bills are weighed too if the answer was left in an earlier process.
    """
    restarting = Restarting(tmp_path, ledger, node)
    lost, answers = 0, 0
    while not voucher_signer.fault and answers < 2_000:
        left(voucher_signer, 40, arrived_units=3, excused_units=4)
        voucher_signer = restarting.again() if restart and not answers % 16 else voucher_signer
        voucher_signer.take_late(receipt(voucher_signer, ASKED, 5))
        lost, answers = lost + 1, answers + 1
        for _ in range(2):
            with asking(voucher_signer, ASKED, 1) as open_request:
                voucher_signer.take(receipt(voucher_signer, ASKED, 1), open_request)
    all_bills = sum(voucher_signer.channel.billed.values())
    assert CAP < lost <= CAP + all_bills // LOST_SHARE + 1
    with pytest.raises(NodeNotTrusted, match="again and again"):
        voucher_signer.require_trust()


def _full(change: Any, *, sync: bool = True) -> None:
    raise StoreError("the disk is full")


@pytest.mark.parametrize("late", [False, True])
def test_a_bill_that_cannot_be_written_is_the_requests_when_it_is_read_again(
    voucher_signer: VoucherSigner, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The request counted as billed, so its own bill was one that nobody asked for, and three full
    disks ended the trust."""
    for _ in range(4):
        with asking(voucher_signer, ASKED, 5) as open_request:
            voucher_signer.keep(open_request)
            open_request.arrived_units = open_request.excused_units = 5
            signed = receipt(voucher_signer, ASKED, 5)
            with monkeypatch.context() as full, pytest.raises(StoreError, match="read from the"):
                full.setattr(voucher_signer._ledger, "_append", _full)
                if late:
                    voucher_signer.take_late(signed)
                else:
                    voucher_signer.take(signed, open_request)
            voucher_signer.leave_unreceipted(open_request)
        assert voucher_signer.take_late(signed)
    assert voucher_signer.channel.billed_units(ASKED) == 20
    assert not voucher_signer.standing.broken and not voucher_signer.standing.lost_units


async def test_a_node_that_refuses_every_voucher_is_out_of_step(ledger: BuyerLedger) -> None:
    """Several servers, each with a ledger of its own, look so: what to do is said."""

    class Replicas(Node):
        async def voucher(self, presented: PresentedVoucher) -> ChannelView:
            self.taken.append(presented)
            raise error_of(
                {"code": StaleVoucher.code, "detail": "no", "base": "0", "best": []}, 409
            )

    signer = VoucherSigner(cast(NodeClient, Replicas()), ledger, DEPLOYMENT, Limits())
    with asking(signer, ASKED, 10), pytest.raises(NodeRefused, match=r"one; ask again.*leave"):
        await signer.cover(ASKED, required_units=10, wanted_units=10)
