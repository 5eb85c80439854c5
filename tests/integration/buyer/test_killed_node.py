"""A node killed in mid-answer, and a buyer that asks it again: both ledgers reach the same sum."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
from tests.fakes.chain import FakeChain
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, DEPOSIT, NODE_KEY, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_client import ask, chat

from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.domain.receipt import salted_hash
from viz.protocol.payment import receipt_from_json


class Kill:
    """Copies the ledger after every commit until the kill: what that leaves on the disk."""

    def __init__(self, live: Path, left: Path) -> None:
        self.live, self.left, self.done = live, left, False

    def __call__(self, moment: str) -> None:
        if moment.endswith(":after") and not self.done:
            self.left.mkdir(exist_ok=True)
            for name in ("ledger.db", "ledger.db-wal"):
                shutil.copy(self.live / name, self.left / name)


async def ask_and_kill(client: BuyerClient, kill: Kill) -> str:
    """Read some of an answer, kill the node there and lose the rest; return the text.

    What the buyer has paid for by then is booked with its vouchers.
    """
    async with client.ask(chat("Tell me all of the tides", max_tokens=400)) as answer:
        async for _ in answer:
            if len(answer.text) >= 60:
                kill.done = True
                break
        return answer.text


async def booked(node: Node, client: BuyerClient) -> tuple[int, int]:
    """Return what the node's ledger says was spent, and what its receipts sum to."""
    record = await node.store.channel(client.signer)
    assert record is not None
    rows = await node.store.receipts(client.signer)
    bills = [receipt_from_json(json.loads(row.body)).receipt.amount_units for row in rows]
    return sum(line.spent_units for line in record.lines.values()), sum(bills)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_channel_works_on_after_its_node_was_killed_in_mid_answer(
    tmp_path: Path, times: int
) -> None:
    """What was delivered was booked without a receipt, so that the buyer's ceiling stayed below
    what the node required: every later request ended in an accusation."""
    chain = FakeChain(NODE_KEY)
    chain.balances[public_address(PAYER_KEY)] = 10**9
    home, text = tmp_path / "node0", ""
    home.mkdir()
    for number in range(times):
        kill = Kill(home, tmp_path / f"node{number + 1}")
        async with (
            running_node(home, chain=chain, hook=kill) as node,
            buying(node, tmp_path / "buyer") as client,
        ):
            if not number:
                await client.open_channel(PAYER_KEY, DEPOSIT)
            await ask(client)
            text = await ask_and_kill(client, kill)
        home = kill.left
    async with running_node(home, chain=chain) as node, buying(node, tmp_path / "buyer") as client:
        spent, billed = await booked(node, client)
        assert 0 < spent == billed
        bill = receipt_from_json(json.loads((await node.store.receipts(client.signer))[-1].body))
        tokens = bill.receipt.completion_tokens
        assert 0 < tokens <= len(text), "what was delivered last was not paid for, nor booked"
        assert bill.receipt.response_hash == salted_hash(bill.response_salt, text[:tokens].encode())
        answers = [await ask(client, chat(f"question {number}")) for number in range(4)]
        assert all(answer.receipt is not None for answer in answers)
        spent, billed = await booked(node, client)
        assert spent == billed == client.channel.billed_units(ADAPTER)
        assert spent <= client.channel.signed_units(ADAPTER)


PROSE = "The tide turns at noon, and nobody told the harbour master. "
CJK = "潮は正午に変わる。今天中午涨潮，但是没有人告诉港长。"
BASE64 = "VGhlIHRpZGUgdHVybnMgYXQgbm9vbiwgYW5kIG5vYm9keSBrbmV3Lg0K"


@pytest.mark.parametrize("choices", [1, 2])
@pytest.mark.parametrize("script", [PROSE, CJK, BASE64], ids=["prose", "cjk", "base64"])
async def test_an_interrupted_receipt_covers_a_beginning_of_what_arrived(
    tmp_path: Path, script: str, choices: int
) -> None:
    """Whatever is written, it is booked with the vouchers, and the receipt's hash covers the very
    text that arrived: of each choice a beginning, with its spaces, and most of what was paid for.
    """
    chain = FakeChain(NODE_KEY)
    chain.balances[public_address(PAYER_KEY)] = 10**9
    kill = Kill(tmp_path / "live", tmp_path / "left")
    (tmp_path / "live").mkdir()
    engine = FakeEngine(context_tokens=2048, script=script.encode())
    body = {**chat("Tell me all of the tides", max_tokens=600), "n": choices}
    async with (
        running_node(tmp_path / "live", chain=chain, engine=engine, hook=kill) as node,
        buying(node, tmp_path / "buyer") as client,
    ):
        await client.open_channel(PAYER_KEY, DEPOSIT)
        async with client.ask(body) as answer:
            async for _ in answer:
                if len(answer.text.encode()) >= 200 * choices:
                    kill.done = True
                    break
            texts = answer._arrival.texts
    async with running_node(kill.left, chain=chain) as node:
        row = (await node.store.receipts(client.signer))[-1]
        bill = receipt_from_json(json.loads(row.body))
    tokens = bill.receipt.completion_tokens
    assert 100 * choices <= tokens <= sum(len(text.encode()) for text in texts)
    beginnings = [[text[:end] for end in range(len(text) + 1)] for text in texts]
    covered = {
        "".join(each)
        for each in product(*beginnings)
        if len("".join(each).encode()) == tokens
        and salted_hash(bill.response_salt, "".join(each).encode()) == bill.receipt.response_hash
    }
    assert len(covered) == 1
