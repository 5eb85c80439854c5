"""The day's sum has what can be taken for an answer without a bill, and no more than that."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.buyer.signing import ASKED, Node, Restarting, left, receipt, signer_of
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.network_record import NetworkFile
from viz.buyer.ledger.node_standing import NodeStanding
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.domain.node_channel import PresentedVoucher
from viz.domain.units import Units
from viz.protocol.messages import ChannelView

DAY = "2026-12-03"
SIGNED = 20


@pytest.fixture
def ledger(tmp_path: Path) -> BuyerLedger:
    ledger = opened(tmp_path)
    observe(ledger, 1_000, 0)
    ledger.commit_standing(NodeStanding((NODE,), 1_000))
    return ledger


def day_units(ledger: BuyerLedger) -> Units:
    return NetworkFile(ledger.home).read().days.get(DAY, 0)


async def broken(signer: VoucherSigner, ledger: BuyerLedger, **known: Units) -> None:
    """Have an answer break off for which ``SIGNED`` was signed, and count it as the network."""
    with signer.open_request(ASKED, b"When?") as running:
        running.units = running.most_units = 50
        await signer.cover(ASKED, required_units=SIGNED, wanted_units=SIGNED)
    request = left(signer, 50, broken=True, arrived_units=SIGNED, **known)
    units = signer.undelivered.takeable_units(request)
    NetworkFile(ledger.home).change(lambda record: record.spending(DAY, units))
    signer.undelivered.note_counted(request, units)


async def test_an_answer_that_broke_off_counts_with_what_is_signed(
    ledger: BuyerLedger, voucher_signer: VoucherSigner
) -> None:
    """It counted with a step more, which nobody could claim; a second one counts nothing twice."""
    await broken(voucher_signer, ledger)
    assert day_units(ledger) == SIGNED
    again = left(voucher_signer, 50, broken=True)
    assert voucher_signer.undelivered.takeable_units(again) == 0


async def test_what_is_signed_later_for_a_broken_answer_is_counted_before(
    ledger: BuyerLedger, node: Node
) -> None:
    """The node comes back and demands what it delivered: the day has it before it is signed."""
    seen: list[Units] = []

    class Demanding(Node):
        async def voucher(self, presented: PresentedVoucher) -> ChannelView:
            seen.append(day_units(ledger))
            return await super().voucher(presented)

    signer = signer_of(ledger, Demanding())
    await broken(signer, ledger)
    await signer.cover(ASKED, required_units=45, wanted_units=45)
    assert seen == [0, 45] and day_units(ledger) == 45


async def test_a_bill_above_what_was_counted_is_added_in_another_process(
    ledger: BuyerLedger, voucher_signer: VoucherSigner, tmp_path: Path, node: Node
) -> None:
    """The process that asked was killed: the next one knows what was counted, and adds the rest."""
    await broken(voucher_signer, ledger)
    later = Restarting(tmp_path, ledger, node).again()
    name = later.undelivered._ledger.unbilled[0].name
    assert later.take_late(receipt(later, ASKED, SIGNED + 5, name=name))
    assert day_units(ledger) == SIGNED + 5
