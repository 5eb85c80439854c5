"""A repeated request while the first is under way: one generation, one bill."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, Answer, Buyer, running_node

from viz.domain.ports.ledger import AnswerRecord
from viz.protocol import payment


async def test_two_requests_of_one_key_at_once_are_billed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repetition that looked the key up just before the first ended does not generate again."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 40_000, 0))
        look_up, looked_up = node.store.answer, 0
        both_came, one_ended = asyncio.Event(), asyncio.Event()

        async def late(scope: bytes, key: str) -> AnswerRecord | None:
            nonlocal looked_up
            looked_up += 1
            found = await look_up(scope, key)
            if looked_up == 1:
                await both_came.wait()
            else:
                both_came.set()
                await one_ended.wait()
            return found

        async def ask() -> Answer:
            answer = await buyer.ask(body, headers=key, pays=False)
            both_came.set()
            one_ended.set()
            return answer

        monkeypatch.setattr(node.store, "answer", late)
        body, key = buyer.chat(max_tokens=16), {"Idempotency-Key": "k"}
        answers = await asyncio.gather(ask(), ask())
        again = [each for each in answers if "Idempotent-Replayed" not in each.headers]
        assert sorted(each.status for each in again) in ([200], [200, 409])
        assert len(await node.store.receipts(buyer.signer)) == 1
