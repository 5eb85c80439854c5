"""A receipt that comes after its answer is counted again, as one in the stream is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api.harness import ADAPTER, DEPOSIT, PAYER_KEY, PRICE, Node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_recount import MODEL, QUESTION, CountingEngine, engine, node

from viz.buyer.channels.sync import ChannelSync
from viz.buyer.client import BuyerClient
from viz.domain.display import amount
from viz.errors import NodeNotTrusted, VizError
from viz.protocol.payment import RECEIPT_EVENT
from viz.protocol.sse import ServerEvent, SseReader

__all__ = ["engine", "node"]  # the fixtures


async def nothing(*_: Any) -> None:
    """Look for no bill: the node hands it out later."""


@pytest.fixture(autouse=True)
def withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no answer bring its receipt."""

    class Front(SseReader):
        def feed(self, chunk: bytes) -> list[ServerEvent]:
            return [each for each in super().feed(chunk) if each.name != RECEIPT_EVENT]

    monkeypatch.setattr("viz.buyer.answers.answer.SseReader", Front)


async def ask(client: BuyerClient) -> tuple[int, str]:
    """Ask, and return what the text that arrived costs, and the error of the missing receipt."""
    body = {"model": MODEL, "max_tokens": 60, "messages": QUESTION}
    async with client.ask(body) as answer:
        with pytest.raises(VizError) as ended:
            async for _ in answer:
                pass
        counted = answer.counted
    return PRICE.amount_units(*counted), ended.value.detail


def overbilling(engine: CountingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = engine.tokenizer.count
    monkeypatch.setattr(engine, "count_tokens", lambda text: honest(text) + 1)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in the next process"])
async def test_one_token_too_many_in_a_late_receipt_ends_the_trust(
    node: Node,
    engine: CountingEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    later: bool,
) -> None:
    """Twenty tokens more were paid, answer after answer, while one in the stream is refused."""
    overbilling(engine, monkeypatch)
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        with monkeypatch.context() as quiet:
            if later:
                quiet.setattr(ChannelSync, "sync_for_bill", nothing)
            cost, said = await ask(client)
        assert bool(client.voucher_signer.fault) is not later
        assert client.channel.billed_units(ADAPTER) == 0
    async with buying(node, tmp_path / "b") as client:
        with pytest.raises(NodeNotTrusted, match="counts other tokens"):
            await client.sync()
            client.voucher_signer.require_trust()
        assert client.channel.billed_units(ADAPTER) == 0
        fault = client.voucher_signer.fault
        assert f"and what arrived costs {amount(cost, DEPLOYMENT)}" in fault
        # Whoever wants to go on pays what the bill is beyond that, by naming it.
        client.forgive()
        with pytest.raises(NodeNotTrusted, match="counts other tokens"):
            await client.sync()
        client.forgive(100)
        await client.sync()
        assert client.channel.billed_units(ADAPTER) > cost and not client.voucher_signer.fault
    assert later or "no bill of this node is accepted any more" in said


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in the next process"])
async def test_a_true_receipt_that_comes_late_is_paid(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """What the error says that the answer costs is what it is billed, and not its bytes."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        with monkeypatch.context() as quiet:
            if later:
                quiet.setattr(ChannelSync, "sync_for_bill", nothing)
            cost, said = await ask(client)
        words = "what arrived costs" if later else "it cost"
        assert re.search(f"{words} {re.escape(amount(cost, DEPLOYMENT))}", said)
    async with buying(node, tmp_path / "b") as client:
        await client.sync()
        assert client.channel.billed_units(ADAPTER) == cost and not client.voucher_signer.fault
    async with buying(node, tmp_path / "b"):
        assert not list((tmp_path / "b").glob("channels/*/asked/*.request")), "nor is it kept"
