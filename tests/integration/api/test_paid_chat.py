"""A paid chat completion over HTTP, from the channel's opening to its close."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, DEPOSIT, PRICE, Buyer, Node, running_node

from viz.domain.ports.engine import Generation, GenerationRequest
from viz.domain.units import BASE_MODEL, ZERO_HASH


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def test_a_stream_is_paid_step_by_step_and_receipted(node: Node) -> None:
    """Vouchers flow while tokens stream; the receipt states what the text costs, to the unit."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask()
    assert answer.status == 200 and answer.finish in ("stop", "length")
    assert answer.needs, "24 tokens are more than one step"
    assert answer.receipt is not None
    receipt = answer.receipt.receipt
    assert receipt.completion_tokens == node.engine.count_tokens(answer.text)
    assert receipt.amount_units == PRICE.amount_units(
        receipt.prompt_tokens, receipt.completion_tokens
    )
    assert buyer.channel.seq == 1 and buyer.channel.billed_units(ADAPTER) == receipt.amount_units
    view = await buyer.view()
    assert [(line.adapter_id, line.spent_units) for line in view.lines] == [
        (ADAPTER, receipt.amount_units)
    ]


async def test_no_hash_in_a_receipt_is_that_of_a_text_alone(node: Node) -> None:
    """Who sees receipts cannot find a short prompt by trying texts, or tell that two were equal."""
    buyer = await Buyer(node).ready()
    first, second = [(await buyer.ask()).receipt for _ in range(2)]
    assert first is not None and second is not None
    salts = {each for one in (first, second) for each in (one.request_salt, one.response_salt)}
    assert len(salts) == 4 and ZERO_HASH not in salts
    assert first.receipt.request_hash != second.receipt.request_hash
    assert first.receipt.response_hash != second.receipt.response_hash


async def test_settling_pays_the_node_and_closing_returns_the_rest(node: Node) -> None:
    """After the close the payer has its deposit less exactly what it signed."""
    buyer = await Buyer(node).ready()
    before = node.chain.balances[buyer.payer]
    await buyer.ask()
    await buyer.ask(buyer.chat(model="fake"))
    done = await buyer.close()
    assert done.transaction_hash and done.close.settled_units == buyer.channel.total_units
    assert node.chain.balances[buyer.payer] == before + DEPOSIT - buyer.channel.total_units
    assert set(buyer.channel.vector) == {ADAPTER, BASE_MODEL}
    refused = await buyer.ask(pays=False)
    assert refused.body["code"] == "channel-closing"


async def test_prompts_are_reused_within_one_signers_requests(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine learns which requests are of one signer, and not of whom."""
    keys: list[str] = []
    generate = node.engine.generate

    async def noted(request: GenerationRequest) -> Generation:
        keys.append(request.reuse_key)
        return await generate(request)

    monkeypatch.setattr(node.engine, "generate", noted)
    first = await Buyer(node).ready()
    await first.ask()
    await first.ask(first.chat(n=2))
    second = await Buyer(node, key=b"\x44" * 32).ready()
    await second.ask()
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(len(key) == 64 for key in keys)
    assert first.channel.signer.removeprefix("0x").lower() not in keys[0]
