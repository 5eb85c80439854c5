"""An honest node runs ahead of its buyer: of one that pauses, and of many answers on credit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from tests.fakes.engine import FakeEngine, OneAtATime
from tests.integration.api.harness import PAYER_KEY, running_node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_untrue_node import ask, chat

from viz.buyer.channels import sync as channel_sync
from viz.domain.eip712 import public_address
from viz.domain.ports.engine import GenerationRequest, Piece

PAUSE_S = 0.3
SHORT_TOKENS = 3


class Uneven(FakeEngine):
    """Its first sequence goes on as long as it may; the others end after a few tokens."""

    sequences = 0

    async def generate(self, request: GenerationRequest) -> Any:
        self.sequences += 1
        found = await super().generate(request)
        return found if self.sequences == 1 else Short(found)


class Short:
    """A sequence that ends by itself after SHORT_TOKENS pieces."""

    def __init__(self, sequence: Any) -> None:
        self._sequence, self._pieces = sequence, 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        self._pieces += 1
        if self._pieces > SHORT_TOKENS:
            raise StopAsyncIteration
        piece: Piece = await anext(self._sequence)
        return replace(piece, finish_reason="stop") if self._pieces == SHORT_TOKENS else piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sequence, name)


@pytest.mark.parametrize("credit_units", [0, 50_000])
async def test_a_reader_that_pauses_before_it_leaves_has_what_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credit_units: int
) -> None:
    """What lay in the buyer's own socket was held against the node, and soon ended the trust."""
    monkeypatch.setattr(channel_sync, "LATE_BILL_WAITS_S", (0.0, 0.05, 0.2))
    (tmp_path / "node").mkdir()
    engine = FakeEngine(context_tokens=8192)
    async with running_node(
        tmp_path / "node", credit_window_units=credit_units, engine=engine
    ) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, 5_000_000)
            assert await ask(client, max_tokens=8)
            many = [ask(client, max_tokens=8, seed=i, temperature=1) for i in range(16)]
            assert all(await asyncio.gather(*many))
            for number in range(3):
                read = 0
                asked = chat(max_tokens=2_000, seed=100 + number, temperature=1)
                async with client.ask(asked) as answer:
                    async for _ in answer:
                        read += 1
                        if read == 8:
                            await asyncio.sleep(PAUSE_S)
                            break
                assert len(answer.text) > read
                await client.sync()
            assert not client.voucher_signer.standing.lost_units
            assert not client.voucher_signer.standing.broken
            assert not client.voucher_signer.fault


async def test_answers_at_once_on_credit_are_paid_while_they_run(tmp_path: Path) -> None:
    """Each refusal of a voucher named what was delivered then, and the next was too small again:
    six of eight answers broke off, and three such rounds ended the trust."""
    (tmp_path / "node").mkdir()
    engine = FakeEngine(context_tokens=8192, script=b"The tide is high at noon. ")
    async with running_node(tmp_path / "node", credit_window_units=50_000, engine=engine) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, 5_000_000)
            assert await ask(client, max_tokens=8)
            many = [ask(client, max_tokens=800, seed=i, temperature=1) for i in range(8)]
            assert all(await asyncio.gather(*many))
            assert not client.voucher_signer.standing.broken


async def test_choices_that_have_ended_cost_no_more(tmp_path: Path) -> None:
    """The longest choice's step was reserved for each choice: more than the buyer may owe."""
    (tmp_path / "node").mkdir()
    engine = Uneven(context_tokens=8192, script=b"The tide is high at noon. ")
    async with running_node(tmp_path / "node", engine=engine) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, 5_000_000)
            async with client.ask(chat(n=4, max_tokens=1_000, temperature=1)) as answer:
                async for _ in answer:
                    pass
            assert answer.receipt is not None
            assert answer.receipt.receipt.completion_tokens == 1_000 + 3 * SHORT_TOKENS
            assert not client.voucher_signer.standing.broken


async def test_choices_that_have_not_begun_cost_no_more(tmp_path: Path) -> None:
    """An engine with less room than choices: the fastest one's step was demanded for all.

    That was more than what had arrived justified, so an honest node was refused, three times.
    """
    engine = OneAtATime(context_tokens=8_192, script=b"The tide is high at noon. ")
    async with running_node(tmp_path, engine=engine) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, 10_000_000)
            async with client.ask(chat(n=2, max_tokens=1_500, temperature=1)) as answer:
                async for _ in answer:
                    pass
            assert len(answer.text) == 3_000
            assert not client.voucher_signer.standing.broken


async def test_a_reader_that_pauses_stops_no_other_answer(tmp_path: Path) -> None:
    """The node went on with its answer, and the others' vouchers paid for that: most broke off.

    The engine is fast, so the paused answer takes each first payment before its request comes.
    """
    script = b"The tide is high at noon. "
    engine = FakeEngine(context_tokens=8_192, script=script, token_s=0.0001)
    async with running_node(tmp_path, engine=engine) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, 10_000_000)
            async with client.ask(chat(max_tokens=2_000)) as paused:
                reading = aiter(paused)
                await anext(reading)
                for number in range(4):
                    assert await ask(client, max_tokens=400, seed=number)
            await client.sync()
            assert not client.voucher_signer.standing.lost_units
            assert not client.voucher_signer.fault
