"""What a buyer's signature may cost, whatever its node says and whenever it says it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer import exposure as exposure_module
from viz.buyer.exposure import Exposure
from viz.buyer.node_api import NodeApi
from viz.buyer.purse import Purse
from viz.buyer.verify import Limits
from viz.domain.channel import Offer
from viz.domain.eip712 import sign
from viz.domain.exchange import ChannelView
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.signed import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import NodeNotTrusted, PriceAboveCap

ASKED, OTHER = AdapterId(3), AdapterId(9)
NODE_KEY = b"\x02" * 32
CAP = 60
QUESTION = b"When is high tide?"


class Node:
    """Takes every voucher, as a node that is content."""

    def __init__(self) -> None:
        self.taken: list[Offer] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def voucher(self, offer: Offer) -> ChannelView:
        self.taken.append(offer)
        await self.answers.wait()
        row = offer.row
        return ChannelView(
            offer.signer, NODE, NODE, 1_000, 0, 0, row.base_units, row.lines, (), 0, ZERO_HASH
        )


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def purse(tmp_path: Path, node: Node) -> Purse:
    ledger = opened(tmp_path)
    observe(ledger, 1_000, 0)
    return Purse(cast(NodeApi, node), ledger, DEPLOYMENT, Limits(request_units=CAP))


def receipt(
    purse: Purse, adapter_id: AdapterId, units: Units, request: bytes = QUESTION
) -> SignedReceipt:
    """The node's receipt that comes next, for so much of one adapter."""
    lines = (UsageLine(adapter_id, units),)
    total = purse.curve.linked_units + units
    values: dict[str, Any] = {
        "channel_id": channel_id(purse.curve.signer, NODE),
        "seq": purse.curve.seq + 1,
        "usage_hash": usage_hash(lines),
        "request_hash": salted_hash(ZERO_HASH, request),
        **dict.fromkeys(("quote_hash", "response_hash"), ZERO_HASH),
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "time_s"), 1),
    }
    said = Receipt(amount_units=units, total_units=total, **values)
    return SignedReceipt(
        said, lines, ZERO_HASH, ZERO_HASH, sign(NODE_KEY, purse.domain.digest(said))
    )


@contextmanager
def asking(purse: Purse, adapter_id: AdapterId, units: Units) -> Iterator[Exposure]:
    """Have a request under way that may cost so much."""
    with purse.expose(adapter_id, QUESTION) as exposure:
        exposure.units = exposure.most_units = units
        yield exposure


def left(purse: Purse, units: Units) -> None:
    """Ask, and leave before the receipt came."""
    with asking(purse, ASKED, units) as exposure:
        purse.leave_unreceipted(exposure)


async def test_an_answer_that_was_left_is_not_forgotten_before_its_bill(
    purse: Purse, node: Node
) -> None:
    """A sync may come before the node has billed: what was left stays accounted for, for once."""
    left(purse, 40)
    purse.all_receipts_known()
    with asking(purse, ASKED, 10):
        await purse.cover(ASKED, required_units=50, wanted_units=50)
    assert node.taken[-1].row.lines == (UsageLine(ASKED, 50),)
    purse.take_late(receipt(purse, ASKED, 35))
    assert not purse.lacks_receipts and purse.ceiling_units(ASKED) == 35


async def test_an_answer_that_is_never_billed_is_forgotten_in_the_end(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that failed at the node has no receipt: its allowance does not stay for ever."""
    left(purse, 40)
    monkeypatch.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
    purse.all_receipts_known()
    assert not purse.lacks_receipts
    with pytest.raises(PriceAboveCap):
        await purse.cover(ASKED, required_units=1, wanted_units=1)


def test_a_bill_that_comes_very_late_is_still_the_requests(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hung for minutes may bill what it did; the allowance for others is untouched."""
    monkeypatch.setattr(exposure_module, "UNRECEIPTED_S", -1.0)
    for _ in range(3):
        left(purse, 40)
        purse.all_receipts_known()
        purse.take_late(receipt(purse, ASKED, 40))
    assert purse.curve.spent_units(ASKED) == 120 > CAP


@pytest.mark.parametrize("adapter_id", [ASKED, OTHER])
def test_a_receipt_that_nothing_accounts_for_is_refused(
    purse: Purse, adapter_id: AdapterId
) -> None:
    """A node cannot write itself receipts and be owed for them: no ledger line, no allowance."""
    left(purse, 40)
    before = purse.curve
    with pytest.raises(NodeNotTrusted, match="no request"):
        purse.take_late(receipt(purse, adapter_id, CAP + 1))
    assert purse.curve == before


async def test_what_was_delivered_on_credit_is_owed_with_the_next_voucher(
    purse: Purse, node: Node
) -> None:
    """A node with a credit window takes no voucher that leaves out what it advanced elsewhere."""
    with asking(purse, ASKED, 20) as exposure:
        purse.take(receipt(purse, ASKED, 20), exposure)
    with asking(purse, OTHER, 7):
        await purse.cover(OTHER, required_units=7, wanted_units=7)
    assert node.taken[-1].row.lines == (UsageLine(ASKED, 20), UsageLine(OTHER, 7))


async def test_a_node_cannot_pay_itself_with_receipts_for_one_request(
    purse: Purse, node: Node
) -> None:
    """One request, any number of true signatures: it is billed once, and what follows is refused.

    The allowance for what an earlier process forgot is used up once and never comes back.
    """
    with asking(purse, ASKED, 40):
        purse.take_late(receipt(purse, ASKED, 40))
        taken = 0
        with pytest.raises(NodeNotTrusted, match="no request"):
            while True:
                purse.take_late(receipt(purse, ASKED, 40))
                taken += 40
        assert taken <= CAP
        with pytest.raises(NodeNotTrusted, match="no request"):
            purse.take_late(receipt(purse, ASKED, 40, b"what nobody asked"))
        with pytest.raises(PriceAboveCap):
            await purse.cover(ASKED, required_units=40 + CAP + 1, wanted_units=0)


@pytest.mark.parametrize("fell", ["another price was agreed", "its bill came"])
async def test_a_ceiling_is_judged_when_it_is_signed(purse: Purse, node: Node, fell: str) -> None:
    """A voucher waits its turn; what its request may cost falls meanwhile, and so does the most."""
    node.answers.clear()
    with asking(purse, OTHER, 10), asking(purse, ASKED, 40) as exposure:
        first = asyncio.create_task(purse.cover(OTHER, required_units=10, wanted_units=10))
        await asyncio.sleep(0)
        waiting = [
            asyncio.create_task(purse.cover(ASKED, required_units=each, wanted_units=40))
            for each in (40, 5)
        ]
        await asyncio.sleep(0)
        assert len(node.taken) == 1
        if fell == "its bill came":
            purse.take(receipt(purse, ASKED, 5), exposure)
        else:
            exposure.units = 5
        node.answers.set()
        await first
        refused, _ = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(refused, PriceAboveCap)
    assert purse.curve.signed_units(ASKED) == 5


def test_an_answer_is_billed_by_one_receipt(purse: Purse) -> None:
    """A second receipt within the answer would pay for the same text again."""
    with asking(purse, ASKED, 40) as exposure:
        purse.take(receipt(purse, ASKED, 40), exposure)
        assert purse.ceiling_units(ASKED) == 40
        before = purse.curve
        with pytest.raises(NodeNotTrusted, match="twice"):
            purse.take(receipt(purse, ASKED, 40), exposure)
        assert purse.curve == before


def test_equal_requests_may_have_each_others_receipt(purse: Purse) -> None:
    """A receipt says what was asked, not by whom: of two equal requests each is billed once."""
    with asking(purse, ASKED, 10) as one, asking(purse, ASKED, 10) as two:
        first = receipt(purse, ASKED, 10)
        purse.take_late(first)
        mistaken, other = (one, two) if one.seq else (two, one)
        purse.take(first, other)
        purse.take(receipt(purse, ASKED, 10), mistaken)
        assert (other.seq, mistaken.seq) == (1, 2) and purse.ceiling_units(ASKED) == 20


def test_a_node_that_breaks_off_every_answer_is_not_paid_for_all(purse: Purse) -> None:
    """What ended without a receipt allows the cap for one request, however often it happens."""
    for _ in range(5):
        left(purse, 40)
    assert purse.ceiling_units(ASKED) == CAP


def test_a_receipt_for_nothing_is_refused(purse: Purse) -> None:
    """A chain of empty receipts would keep a buyer reading for ever."""
    signed = receipt(purse, ASKED, 0)
    said = replace(signed.receipt, usage_hash=usage_hash(()))
    signature = sign(NODE_KEY, purse.domain.digest(said))
    with pytest.raises(NodeNotTrusted, match="nothing"):
        purse.take_late(replace(signed, receipt=said, lines=(), signature=signature))
