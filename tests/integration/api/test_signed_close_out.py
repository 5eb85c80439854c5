"""While a signed Close is out nothing is sold, and nobody makes the node ask its chain the time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.chain import FakeChain
from tests.integration.api.harness import ADAPTER, DEPOSIT, NODE_KEY, Buyer, Node, running_node

from viz.errors import ChainUnreachable
from viz.protocol import payment
from viz.services.payments.channel_close import CLOSE_VALID_S, HANDED_AGAIN_S

FORGED = 40


async def closed(node: Node) -> Buyer:
    """A buyer whose channel was closed by agreement, and that has the node's signature only."""
    buyer = await Buyer(node).ready()
    assert not (await buyer.close()).transaction_hash
    return buyer


async def forge(buyer: Buyer) -> set[int]:
    presented = buyer.voucher(ADAPTER, buyer.channel.total_units + 50, 0)
    forged = replace(
        presented, row=replace(presented.row, signature=b"\x01" * len(presented.row.signature))
    )
    answers = [await buyer.pay(payment.VOUCHERS_PATH, forged) for _ in range(FORGED)]
    return {status for status, _ in answers}


@pytest.mark.parametrize("passed", [False, True])
async def test_forged_vouchers_and_requests_ask_the_chain_nothing(
    tmp_path: Path, passed: bool
) -> None:
    """Neither while the Close could be used, nor for ever after."""
    async with running_node(tmp_path) as node:
        buyer = await closed(node)
        if passed:
            node.clock.now += CLOSE_VALID_S + 1
        await node.parts.vouchers.view(buyer.signer, private=False)
        reads = node.chain.reads
        assert 200 not in await forge(buyer)
        answers = [(await buyer.ask(pays=False)).status for _ in range(5)]
        assert set(answers) == ({402} if passed else {409})
        # The adapter's own standing is read, once.
        assert node.chain.reads - reads <= 2


async def test_a_passed_deadline_is_let_go_of(tmp_path: Path) -> None:
    """The channel sells again, and the ledger keeps no deadline, once the chain's time is past it.

    The machine's clock alone does not end it: the next block's time may be before it."""

    class Still(FakeChain):
        time_s: int | None = None

        async def chain_time(self) -> int:
            now_s = await super().chain_time()
            return now_s if self.time_s is None else self.time_s

    chain = Still(NODE_KEY)
    async with running_node(tmp_path, chain=chain) as node:
        buyer = await closed(node)
        record = await node.store.channel(buyer.signer)
        assert record is not None and record.closed_until == node.clock.now + CLOSE_VALID_S
        chain.time_s = record.closed_until
        node.clock.now += 10 * CLOSE_VALID_S
        await buyer.login()
        assert (await buyer.ask(pays=False)).status == 409
        chain.time_s += 1
        node.clock.now += 10
        assert (await buyer.ask()).status == 200
        record = await node.store.channel(buyer.signer)
        assert record is not None and record.closed_until == 0
        reads = chain.reads
        assert (await buyer.ask()).status == 200
        assert chain.reads == reads


async def test_a_time_that_cannot_be_read_keeps_the_deadline(tmp_path: Path) -> None:
    """The channel's own reading goes on without it."""

    class Timeless(FakeChain):
        fails = False

        async def chain_time(self) -> int:
            if self.fails:
                raise ChainUnreachable("no answer")
            return await super().chain_time()

    chain = Timeless(NODE_KEY)
    async with running_node(tmp_path, chain=chain) as node:
        buyer = await closed(node)
        chain.fails = True
        node.clock.now += CLOSE_VALID_S + 10
        await buyer.login()
        assert (await buyer.ask(pays=False)).status == 409
        chain.channels[buyer.signer, chain.address] = replace(
            chain.channels[buyer.signer, chain.address], deposit_units=DEPOSIT + 7
        )
        node.clock.now += 10
        await asyncio.sleep(0)
        view = await node.parts.vouchers.view(buyer.signer, private=False)
        assert view.deposit_units == DEPOSIT + 7


async def test_a_close_that_is_asked_for_again_is_the_same_while_it_is_valid(
    tmp_path: Path,
) -> None:
    """Each run of a command that had no gas signed a new one, and no sale was ever possible."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        first = await buyer.close()
        node.clock.now += CLOSE_VALID_S - HANDED_AGAIN_S
        again = await buyer.close()
        assert (again.close, again.signature) == (first.close, first.signature)
        record = await node.store.channel(buyer.signer)
        assert record is not None and record.closed_until == first.close.deadline_s
        node.clock.now += 1
        later = await buyer.close()
        assert later.close.deadline_s == node.clock.now + CLOSE_VALID_S
