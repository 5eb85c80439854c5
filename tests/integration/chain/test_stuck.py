"""Transactions that blocks pass over: raised in time, within the bound, and never doubled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.chain.testnet import Testnet

from viz.chain import fees
from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.ports.transactions import Call, Outcome
from viz.domain.units import Hash32, hex_of
from viz.errors import ChainUnreachable

GWEI = 10**9
PATIENCE = 3
RIVAL = 5
WIDE_GAS, TRANSFER_GAS = 30_000_000, 21_000


class Keeping(MemoryJournal):
    """Remembers every transaction that was ever recorded, and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[SignedTransaction] = []
        self.ends: dict[Hash32, Outcome] = {}
        self.news: asyncio.Queue[SignedTransaction] = asyncio.Queue()

    async def record(self, transaction: SignedTransaction) -> None:
        self.all.append(transaction)
        await super().record(transaction)
        self.news.put_nowait(transaction)

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        self.ends[transaction_hash] = outcome
        await super().resolve(transaction_hash, outcome)


class Deaf(Rpc):
    """A connection on which only the first broadcast arrives."""

    broadcasts = 0

    async def broadcast(self, raw: bytes) -> None:
        self.broadcasts += 1
        if self.broadcasts > 1:
            raise ChainUnreachable("the connection broke")
        await super().broadcast(raw)


class Crowd:
    """Somebody else's transfers, a little dearer than one transaction, that fill every block."""

    def __init__(self, net: Testnet, overtaken: SignedTransaction) -> None:
        self._net = net
        self._account = development_account(RIVAL)
        most, tip = paid(overtaken)
        self._fees = {"maxFeePerGas": most * 21 // 20, "maxPriorityFeePerGas": tip * 21 // 20}
        self._nonce = 0

    async def block(self) -> None:
        """Have a block made that the rival's transfer is first in."""
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self._net.deployment.chain_id,
            "nonce": self._nonce,
            "gas": TRANSFER_GAS,
            "to": self._account.address,
            "value": 0,
            "data": b"",
            **self._fees,
        }
        self._nonce += 1
        await self._net.rpc.broadcast(fees.sign(self._account, fields, "a rival").raw)
        await self._net.anvil.mine()


def paid(entry: SignedTransaction) -> tuple[int, int]:
    """The most a unit of gas may cost, and its tip."""
    fields = fees._fields(entry.raw)
    return int(fields["maxFeePerGas"]), int(fields["maxPriorityFeePerGas"])


def mint(sender: Sender, units: int) -> Call:
    return Call("Token", "mint", (sender.address, units))


@pytest.fixture
async def still(net: Testnet) -> Testnet:
    """A chain that makes blocks by hand."""
    await net.anvil.automine(False)
    return net


def sender_of(net: Testnet, journal: Keeping, rpc: Rpc | None = None, **given: Any) -> Sender:
    settings: dict[str, Any] = {"stuck_blocks": PATIENCE, "wait_s": 30.0, **given}
    return Sender(
        rpc or net.rpc, development_account(1), net.deployment, journal=journal, **settings
    )


async def known(net: Testnet, entry: SignedTransaction) -> None:
    """Wait until the chain has the transaction."""
    async with asyncio.timeout(10):
        while not await net.rpc.knows(entry.hash):  # noqa: ASYNC110  the chain calls nobody
            await asyncio.sleep(0.05)


async def narrow(net: Testnet, entry: SignedTransaction) -> None:
    """Make room in a block for the transaction, or for a rival's transfer, not for both."""
    await gas_limit(net, int(fees._fields(entry.raw)["gas"]) + TRANSFER_GAS // 2)


async def gas_limit(net: Testnet, limit: int) -> None:
    await net.rpc.request("evm_setBlockGasLimit", [hex(limit)])


async def test_a_transaction_that_dearer_ones_overtake_is_raised_while_it_is_awaited(
    still: Testnet,
) -> None:
    """A tip too low to be mined: both fees rise by an eighth, the call happens once, one end."""
    journal = Keeping()
    sender = sender_of(still, journal)
    sent = asyncio.create_task(sender.submit(mint(sender, 7)))
    first = await journal.news.get()
    await known(still, first)
    await narrow(still, first)
    crowd = Crowd(still, first)
    blocks = 0
    while not sent.done():
        await crowd.block()
        blocks += 1
        await asyncio.sleep(0.2)
    done = await sent
    _, second = journal.all
    assert done.outcome is Outcome.MINED and done.hash == second.hash
    assert blocks > PATIENCE and sender.fees_raised == 1 and first.nonce == second.nonce
    assert all(8 * now >= 9 * was for was, now in zip(paid(first), paid(second), strict=True))
    assert journal.ends == {first.hash: Outcome.FAILED, second.hash: Outcome.MINED}
    assert await sender.recover() == ()
    assert await still.chain.token_balance(sender.address) == 7


async def test_the_one_that_was_replaced_may_be_mined_all_the_same(still: Testnet) -> None:
    """The dearer one never arrived: the first one's receipt ends the wait, and is what is told."""
    journal, rpc = Keeping(), Deaf(still.anvil.url)
    sender = sender_of(still, journal, rpc)
    sent = asyncio.create_task(sender.submit(mint(sender, 7)))
    first = await journal.news.get()
    await known(still, first)
    await narrow(still, first)
    crowd = Crowd(still, first)
    while len(journal.all) < 2:
        await crowd.block()
        await asyncio.sleep(0.2)
    await gas_limit(still, WIDE_GAS)
    await still.anvil.mine()
    done = await sent
    assert (done.outcome, done.hash) == (Outcome.MINED, first.hash)
    assert set(journal.ends) == {each.hash for each in journal.all}
    assert [key for key, end in journal.ends.items() if end is Outcome.MINED] == [first.hash]
    assert await sender.recover() == ()
    assert await still.chain.token_balance(sender.address) == 7
    await rpc.close()


async def test_what_a_restart_finds_stuck_is_raised_in_its_turn_and_no_higher_than_allowed(
    still: Testnet,
) -> None:
    """Only the first in line is raised, not what waits behind it, and not above the bound."""
    journal = Keeping()
    before = sender_of(still, journal, wait_s=0.2)
    stuck, behind = [await before.submit(mint(before, units)) for units in (7, 10)]
    assert stuck.outcome is behind.outcome is Outcome.PENDING
    first = journal.all[0]
    await narrow(still, first)
    crowd = Crowd(still, first)
    for most, raised in ((paid(first)[0], 0), (10 * GWEI, 1)):
        restarted = sender_of(still, journal, wait_s=0.2, max_fee_wei=most)
        await restarted.recover()
        assert len(journal.all) == 2, "no block went by while it looked"
        for _ in range(PATIENCE):
            await crowd.block()
        await restarted.recover()
        assert restarted.fees_raised == raised
    assert [each.nonce for each in journal.all] == [0, 1, 0]
    dearer = journal.all[2]
    await gas_limit(still, WIDE_GAS)
    await still.anvil.mine(2)
    assert {each.outcome for each in await restarted.recover()} == {Outcome.MINED, Outcome.FAILED}
    assert journal.ends == {
        first.hash: Outcome.FAILED,
        dearer.hash: Outcome.MINED,
        behind.hash: Outcome.MINED,
    }
    assert await restarted.recover() == ()
    assert await still.chain.token_balance(restarted.address) == 17


async def test_a_chain_that_makes_no_blocks_is_offered_no_more(still: Testnet) -> None:
    """Time alone raises nothing: a better offer does not wake a chain that sleeps."""
    journal = Keeping()
    sender = sender_of(still, journal, wait_s=3.0, stuck_blocks=1)
    sent = await sender.submit(mint(sender, 7))
    for _ in range(3):
        await sender.recover()
    assert (sent.outcome, len(journal.all)) == (Outcome.PENDING, 1), hex_of(sent.hash)
