"""What a buyer's signature may cost, whatever its node says and whenever it says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer import purse as purse_module
from viz.buyer.node_api import NodeApi
from viz.buyer.purse import Purse
from viz.domain.channel import Offer
from viz.domain.eip712 import sign
from viz.domain.exchange import ChannelView
from viz.domain.receipt import SignedReceipt
from viz.domain.signed import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import NodeNotTrusted, PriceAboveCap

ASKED, OTHER = AdapterId(3), AdapterId(9)
NODE_KEY = b"\x02" * 32


class Node:
    """Takes every voucher, as a node that is content."""

    def __init__(self) -> None:
        self.taken: list[Offer] = []

    async def voucher(self, offer: Offer) -> ChannelView:
        self.taken.append(offer)
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
    return Purse(cast(NodeApi, node), ledger, DEPLOYMENT)


def receipt(purse: Purse, adapter_id: AdapterId, units: Units) -> SignedReceipt:
    """The node's receipt that comes next, for so much of one adapter."""
    lines = (UsageLine(adapter_id, units),)
    total = purse.curve.linked_units + units
    values: dict[str, Any] = {
        "channel_id": channel_id(purse.curve.signer, NODE),
        "seq": purse.curve.seq + 1,
        "usage_hash": usage_hash(lines),
        **dict.fromkeys(("quote_hash", "request_hash", "response_hash"), ZERO_HASH),
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "time_s"), 1),
    }
    said = Receipt(amount_units=units, total_units=total, **values)
    return SignedReceipt(
        said, lines, ZERO_HASH, ZERO_HASH, sign(NODE_KEY, purse.domain.digest(said))
    )


def left(purse: Purse, units: Units) -> None:
    """Ask, and leave before the receipt came."""
    with purse.expose(ASKED, units) as exposure:
        purse.leave_unreceipted(exposure)


async def test_an_answer_that_was_left_is_not_forgotten_before_its_bill(
    purse: Purse, node: Node
) -> None:
    """A sync may come before the node has billed: what was left stays accounted for, for once."""
    left(purse, 40)
    purse.all_receipts_known()
    with purse.expose(ASKED, 10):
        await purse.cover(ASKED, required_units=50, wanted_units=50)
    assert node.taken[-1].row.lines == (UsageLine(ASKED, 50),)
    purse.take_late(receipt(purse, ASKED, 35))
    assert not purse.lacks_receipts and purse.ceiling_units(ASKED) == 35


async def test_an_answer_that_is_never_billed_is_forgotten_in_the_end(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that failed at the node has no receipt: its allowance does not stay for ever."""
    left(purse, 40)
    monkeypatch.setattr(purse_module, "UNRECEIPTED_S", -1.0)
    purse.all_receipts_known()
    assert not purse.lacks_receipts
    with pytest.raises(PriceAboveCap):
        await purse.cover(ASKED, required_units=1, wanted_units=1)


@pytest.mark.parametrize("adapter_id", [ASKED, OTHER])
def test_a_receipt_that_nothing_accounts_for_is_refused(
    purse: Purse, adapter_id: AdapterId
) -> None:
    """A node cannot write itself receipts and be owed for them: no ledger line, no allowance."""
    left(purse, 40)
    before = purse.curve
    with pytest.raises(NodeNotTrusted, match="no request"):
        purse.take_late(receipt(purse, adapter_id, 41 if adapter_id == OTHER else 81))
    assert purse.curve == before


async def test_what_was_delivered_on_credit_is_owed_with_the_next_voucher(
    purse: Purse, node: Node
) -> None:
    """A node with a credit window takes no voucher that leaves out what it advanced elsewhere."""
    with purse.expose(ASKED, 20):
        purse.take(receipt(purse, ASKED, 20))
    with purse.expose(OTHER, 7):
        await purse.cover(OTHER, required_units=7, wanted_units=7)
    assert node.taken[-1].row.lines == (UsageLine(ASKED, 20), UsageLine(OTHER, 7))
