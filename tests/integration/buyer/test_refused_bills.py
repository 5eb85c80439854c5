"""What a buyer reads when a bill is not accepted: one sentence that does not contradict another."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.integration.buyer.rogue import Rogue
from tests.integration.buyer.test_network import Network, chat, network
from tests.integration.buyer.test_untrue_node import DONE, ask, said

from viz.buyer.channels.sync import ChannelSync
from viz.buyer.client import BuyerClient
from viz.buyer.network.control import NetworkControl
from viz.cli.buyer.proxying import cost_words
from viz.errors import NodeNotTrusted, VizError
from viz.protocol.payment import RECEIPT_EVENT
from viz.protocol.sse import ServerEvent, SseReader

__all__ = ["network"]  # the fixture


@pytest.mark.parametrize("own", [True, False], ids=["its own request", "another request"])
async def test_a_bill_that_is_refused_is_not_told_as_one_that_may_come(
    buyer: BuyerClient, own: bool
) -> None:
    """Who read that a node's bill was never paid read too that it is "not billed yet"."""
    rogue = Rogue()
    rogue.attach(buyer)
    rogue.script = lambda body: [
        said("high"),
        lambda: rogue.bill(body if own else b"another", "high", 90_000, tokens=4_000),
        DONE,
    ]
    with pytest.raises(VizError) as told:
        await ask(buyer)
    assert buyer.voucher_signer.fault in told.value.detail
    assert "no bill of this node is accepted any more; what is signed" in told.value.detail
    assert "not billed yet" not in told.value.detail and "it cost" not in told.value.detail
    with pytest.raises(NodeNotTrusted, match="nothing more is asked"):
        await ask(buyer)


async def test_an_answer_without_a_bill_is_not_told_as_paid(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is whole and its bill is not: the command said "paid", the log that it is not."""

    class Front(SseReader):
        def feed(self, chunk: bytes) -> list[ServerEvent]:
            return [each for each in super().feed(chunk) if each.name != RECEIPT_EVENT]

    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr("viz.buyer.answers.answer.SseReader", Front)
    monkeypatch.setattr(ChannelSync, "sync_for_bill", nothing)
    async with network.buyer() as buyer:
        done = await NetworkControl(buyer).ask(chat(), nothing, nothing)
    assert done["text"] and int(done["cost"]) > 0 and done["billed"] is False
    cost = cost_words(int(done["cost"]), DEPLOYMENT, billed=done["billed"])
    assert "paid" not in cost and cost.startswith("not billed: 0.000")
    assert cost_words(5, DEPLOYMENT, billed=True) == "paid 0.000005 vUSD"
