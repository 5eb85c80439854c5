"""A node that is killed in the middle of an answer stays in business with the buyer's own client.

The ledger's files are copied at one commit, the node's connections are cut, and a new node opens
the copy: what a kill at that moment leaves. The buyer, in the same process or in a new one, asks on
until its deposit is used up.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import FakeChain
from tests.integration.api.harness import ADAPTER, NODE_KEY, PAYER_KEY, PRICE, Node, running_node
from tests.integration.buyer.conftest import buying

from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.domain.units import Units
from viz.errors import DepositExceeded, NodeUnreachable, VizError
from viz.services.serving.paid_stream import ServingPolicy

DEPOSIT = 12_000
# Prompt, answer and one step of the question below, generously.
ONE_REQUEST: Units = PRICE.amount_units(200, 200 + 64 + 32)


def question(number: int = 0) -> dict[str, Any]:
    messages = [{"role": "user", "content": "When is high tide?"}]
    body = {"model": f"viz-adapter-{ADAPTER}", "messages": messages, "max_tokens": 200}
    return {**body, "seed": number, "temperature": 1}


class Kill:
    """Copies the ledger at one commit of an answer, and says that the node is dead."""

    def __init__(self, folder: Path, moment: str, skip: int) -> None:
        self._folder = folder
        self._moment = moment
        self._skip = skip
        self.armed = False
        self.copy = folder / "copy"
        self.dead = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, moment: str) -> None:
        if not self.armed or moment != self._moment:
            return
        self._skip -= 1
        if self._skip >= 0:
            return
        self.armed = False
        self.copy.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(self._folder / "live" / name, self.copy / name)
        self._loop.call_soon_threadsafe(self.dead.set)


async def cut(node: Node) -> None:
    """End every connection of a node and take none: what its buyers see of a kill."""
    for site in list(node.runner.sites):
        await site.stop()
    assert node.runner.server is not None
    for connection in list(node.runner.server.connections):
        if connection.transport is not None:
            connection.transport.abort()


async def asked(client: BuyerClient, number: int = 0) -> Units:
    async with client.ask(question(number)) as answer:
        async for _ in answer:
            pass
    assert answer.cost_units is not None
    return answer.cost_units


@asynccontextmanager
async def killed(
    tmp_path: Path, moment: str, skip: int, **settings: Any
) -> AsyncIterator[tuple[BuyerClient, FakeChain, Path, VizError]]:
    """Yield a buyer whose node was killed at a moment of its second answer, and its error."""
    kill = Kill(tmp_path, moment, skip)
    (tmp_path / "live").mkdir()
    policy = ServingPolicy(step_tokens=8, voucher_grace_s=0.3)
    async with running_node(tmp_path / "live", hook=kill, policy=policy) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        exact = {"count_tokens": node.engine.count_tokens, **settings}
        async with buying(node, tmp_path / "buyer", **exact) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            await asked(client, 1)

            async def die() -> None:
                await kill.dead.wait()
                await cut(node)

            dying = asyncio.create_task(die())
            kill.armed = True
            with pytest.raises(NodeUnreachable) as told:
                for number in range(2, 12):  # some answers are short
                    await asked(client, number)
            await dying
            yield client, node.chain, kill.copy, told.value


MOMENTS = [
    ("voucher:after", 0),
    ("voucher:after", 2),
    ("voucher:before", 3),
    ("receipt:before", 0),
    ("receipt:after", 0),
]


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "new process"])
@pytest.mark.parametrize(("moment", "skip"), MOMENTS)
async def test_a_deposit_can_be_used_up_after_a_kill(
    tmp_path: Path, moment: str, skip: int, restart: bool
) -> None:
    """No dead end: every question after the kill is answered, until the deposit is used up.

    What broke off costs what arrived and one step at most, in the ledger as on the chain.
    """
    async with killed(tmp_path, moment, skip) as (client, chain, copy, told):
        told_cost = ("cost", "if the node began", "Cannot connect")
        assert any(words in told.detail for words in told_cost)
        again = FakeChain(NODE_KEY, channels=dict(chain.channels))
        async with running_node(copy, chain=again) as node:
            exact = {"count_tokens": node.engine.count_tokens}
            if restart:
                await client.aclose()
                async with buying(node, tmp_path / "buyer", **exact) as next_client:
                    await use_up(node, next_client)
            else:
                client.api._dialled = node.url
                await use_up(node, client)


async def use_up(node: Node, client: BuyerClient) -> None:
    answered: list[Units] = []
    with pytest.raises(DepositExceeded):
        for number in range(100):
            answered.append(await asked(client, number))
    assert len(answered) > 5
    assert sum(answered) > DEPOSIT - 4 * ONE_REQUEST
    await node.parts.settlement.step(force=True)
    settled = node.chain.channels[client.signer, node.chain.address].settled_units
    spent = client.channel.billed_units(ADAPTER)
    assert settled <= spent + ONE_REQUEST
    client.require_trust()


async def test_what_a_break_costs_is_told(tmp_path: Path) -> None:
    """A person reads what arrived, what is owed for it at most, and in the token's own amounts."""
    async with killed(tmp_path, "voucher:after", 2) as (client, _, _, told):
        assert "what arrived costs 0.00" in told.detail and "at most" in told.detail
        assert client.deployment.token_symbol in told.detail
        assert client.voucher_signer.lacks_receipts


async def test_a_token_that_a_node_no_longer_knows_is_renewed(tmp_path: Path) -> None:
    """A node whose sessions are gone, as after a restore, is asked on without a restart here."""
    (tmp_path / "one").mkdir()
    async with running_node(tmp_path / "one") as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            await asked(client)
            await asked(client)
            for use, end in (
                (client.sync, "lost"),
                (lambda: asked(client, 2), "lost"),
                (lambda: asked(client, 3), None),
            ):
                first = await client.token()
                lost = first.token[:-4] + end if end else "of another kind"
                client.access._token = type(first)(lost, first.expires_at_s)
                await use()
                assert (await client.token()).token != lost


async def test_a_buyer_that_was_killed_knows_what_its_last_quote_allowed(tmp_path: Path) -> None:
    """The record said what the first quote allowed, that of a shorter question before.

    The bill for the longer one was above it, and an honest node was accused.
    """
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node") as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "buyer") as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            async with client.ask({**question(1), "max_tokens": 8}) as answer:
                _ = [chunk async for chunk in answer]
            async with client.ask({**question(2), "temperature": 0}) as answer:
                async for _ in answer:
                    if len(answer.text) > 80:
                        break
                shutil.copytree(tmp_path / "buyer", tmp_path / "left")
        async with buying(node, tmp_path / "left") as again:
            await again.sync()
            again.require_trust()
            assert again.channel.seq == 2
