"""The watcher against a real chain: order, restarts, reorganisations, close requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.integration.chain.testnet import Narrow, Testnet, address

from viz.chain.devnet import Devnet
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.chain.watcher import Watcher
from viz.domain.ports.settlement_ledger import BlockMark
from viz.domain.ports.transactions import Event
from viz.errors import ChainError, ChainMismatch


class Books:
    """What a handler of rows does: keeps events by block, drops those above a rollback."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closing: list[Event] = []
        self.rolled_back: list[int] = []
        self.kept: list[BlockMark] = []

    async def handle(self, events: Sequence[Event]) -> None:
        self.events.extend(events)

    async def roll_back(self, above: int) -> None:
        self.rolled_back.append(above)
        self.events = [event for event in self.events if event.block_number <= above]

    async def close_requested(self, event: Event) -> None:
        self.closing.append(event)

    async def marks(self) -> Sequence[BlockMark]:
        return sorted(self.kept, key=lambda mark: -mark.number)

    async def advance(self, mark: BlockMark) -> None:
        self.kept.append(mark)

    async def rollback(self, above: int) -> None:
        self.kept = [mark for mark in self.kept if mark.number <= above]

    def works(self) -> list[int]:
        return [e.args["contentId"] for e in self.events if e.name == "ContentRegistered"]

    def creators(self) -> list[str]:
        return [e.args["creator"] for e in self.events if e.name == "ContentRegistered"]

    def watcher(self, net: Testnet, *, confirmations: int = 0, chunk: int = 3) -> Watcher:
        return Watcher(
            net.rpc,
            net.deployment,
            self,
            self.handle,
            roll_back=self.roll_back,
            close_requested=self.close_requested,
            confirmations=confirmations,
            chunk_blocks=chunk,
        )


async def test_every_event_once_in_order_over_restarts(net: Testnet) -> None:
    """Small chunks and a new watcher at every step neither skip nor repeat an event."""
    books = Books()
    creator = net.sender(1)
    for expected in range(1, 6):
        await net.register_work(creator)
        await books.watcher(net).step()
        assert books.works() == list(range(1, expected + 1))
    assert books.rolled_back == []


async def test_only_confirmed_events_are_handled(net: Testnet) -> None:
    """An event waits for its confirmations."""
    books = Books()
    watcher = books.watcher(net, confirmations=2)
    await net.register_work(net.sender(1))
    await net.anvil.mine()
    await watcher.step()
    assert books.works() == []
    await net.anvil.mine()
    await watcher.step()
    assert books.works() == [1]


async def test_a_reorganisation_rolls_back_to_the_last_common_block(net: Testnet) -> None:
    """Blocks that vanished take their events with them; their replacements are handled."""
    books = Books()
    creator, other = net.sender(1), net.sender(2)
    await net.register_work(creator)
    await books.watcher(net).step()
    common = await net.rpc.block_number()
    before = await net.anvil.snapshot()
    await net.register_work(creator)
    await net.register_work(creator)
    await books.watcher(net).step()
    assert books.works() == [1, 2, 3]
    await net.anvil.revert(before)
    await net.register_work(other)
    await books.watcher(net).step()
    assert books.rolled_back == [common]
    assert books.works() == [1, 2]
    assert books.creators() == [creator.address, other.address]


async def test_a_shorter_chain_is_a_reorganisation_too(net: Testnet) -> None:
    """The head may be below the cursor for a while."""
    books = Books()
    before = await net.anvil.snapshot()
    await net.register_work(net.sender(1))
    await books.watcher(net).step()
    await net.anvil.revert(before)
    await books.watcher(net).step()
    assert books.works() == []
    assert len(books.rolled_back) == 1


async def test_a_confirmed_close_request_is_reported_too(net: Testnet) -> None:
    """Without confirmations, or after a restart, nothing is only in the look-ahead."""
    books = Books()
    payer, signer, node = net.sender(1), development_account(2), net.sender(3).address
    await net.open_channel(payer, signer, node, 1_000)
    await net.done(payer, "Settlement", "requestClose", address(signer), node)
    watcher = books.watcher(net)
    await watcher.step()
    await watcher.step()
    assert [event.name for event in books.closing] == ["CloseRequested"]


async def test_a_close_request_is_seen_before_its_confirmations(net: Testnet) -> None:
    """A node stops selling at once, not only when the request is confirmed; told once."""
    books = Books()
    watcher = books.watcher(net, confirmations=5)
    payer, signer, node = net.sender(1), development_account(2), net.sender(3).address
    await net.open_channel(payer, signer, node, 1_000)
    await net.done(payer, "Settlement", "requestClose", address(signer), node)
    await watcher.step()
    await watcher.step()
    assert [event.name for event in books.closing] == ["CloseRequested"]
    assert not any(event.name == "CloseRequested" for event in books.events)


async def test_a_close_request_does_not_wait_for_history(net: Testnet) -> None:
    """A new node, whose endpoint serves no old logs, hears all the same who leaves."""
    books, rpc = Books(), Narrow(net.rpc.url)
    payer, signer, node = net.sender(1), development_account(2), net.sender(3).address
    await net.open_channel(payer, signer, node, 1_000)
    await net.done(payer, "Settlement", "requestClose", address(signer), node)
    rpc.below = await rpc.block_number()
    watcher = Watcher(
        rpc, net.deployment, books, books.handle, close_requested=books.close_requested,
        chunk_blocks=1,
    )  # fmt: skip
    with pytest.raises(ChainError, match="missing historical state"):
        await watcher.step()
    assert [event.name for event in books.closing] == ["CloseRequested"] and not books.kept
    await rpc.close()


async def test_an_endpoint_that_serves_few_blocks_at_once_is_asked_for_fewer(net: Testnet) -> None:
    """Every event once, in order, whatever the endpoint's bound; none is skipped by halving."""
    books, rpc = Books(), Narrow(net.rpc.url)
    rpc.widest = 2
    for _ in range(3):
        await net.register_work(net.sender(1))
    await net.anvil.mine(5)
    watcher = Watcher(rpc, net.deployment, books, books.handle, chunk_blocks=2_000)
    await watcher.step()
    assert books.works() == [1, 2, 3]
    assert books.kept[-1].number == await rpc.block_number()
    await rpc.close()


async def test_a_chain_reset_under_the_books_stops_the_node(net: Testnet) -> None:
    """Another chain at the same address is no reorganisation: the ledger is left as it is."""
    books = Books()
    await net.register_work(net.sender(1))
    await books.watcher(net).step()
    other = await Devnet.start()
    rpc = Rpc(other.url)
    watcher = Watcher(rpc, net.deployment, books, books.handle, roll_back=books.roll_back)
    with pytest.raises(ChainMismatch, match="the chain was reset"):
        await asyncio.wait_for(watcher.run(), 30)
    assert (books.rolled_back, books.works()) == ([], [1])
    await rpc.close()
    await other.stop()
