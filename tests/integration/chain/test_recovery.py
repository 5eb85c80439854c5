"""Recovery of several transactions at once, against a model chain in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.model_chain import ModelChain, ModelRpc
from tests.fakes.virtual_time import VirtualLoop

from viz.chain import fees
from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.sender import Sender
from viz.domain.ports.transactions import Call, Outcome
from viz.errors import ChainError

WAIT_S = 60.0
LOST = 8
ACCOUNT = development_account(1)


class Lost:
    """A key whose open transactions the chain does not know, after a restart."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.chain = ModelChain(mining=False)
        self.rpc = ModelRpc(self.chain)
        self.journal = MemoryJournal()
        self.rpc.fault = "lost"
        for units in range(LOST):
            sender = self.sender()
            sent = loop.run_until_complete(sender.submit(mint(sender, units)))
            assert sent.outcome is Outcome.UNKNOWN
        self.rpc.fault = ""

    def sender(self, **given: int) -> Sender:
        return Sender(self.rpc, ACCOUNT, DEPLOYMENT, journal=self.journal, wait_s=WAIT_S, **given)

    def open(self) -> list[int]:
        pending = self.loop.run_until_complete(self.journal.pending(self.sender().address))
        return [entry.nonce for entry in pending]


@pytest.fixture
def lost() -> Lost:
    return Lost(VirtualLoop())


def mint(sender: Sender, units: int) -> Call:
    return Call("Token", "mint", (sender.address, units))


def nonces(rpc: ModelRpc) -> list[int]:
    return [int(fees._fields(raw)["nonce"]) for _, raw in rpc.broadcasts]


def test_all_that_is_lost_is_sent_at_once_and_waits_once(lost: Lost) -> None:
    """No block comes: the lowest nonce is sent first, all together, and one wait is the whole."""
    found = lost.loop.run_until_complete(lost.sender().recover())
    assert [each.outcome for each in found] == [Outcome.PENDING] * LOST
    assert {each.what for each in found} == {"Token.mint"}
    assert nonces(lost.rpc) == [*range(LOST)]
    assert {made_s for made_s, _ in lost.rpc.broadcasts} == {0.0}, "none waited for another"
    assert lost.loop.now_s <= WAIT_S + 1
    assert lost.open() == [*range(LOST)]


def test_all_that_is_lost_is_mined_in_one_wait(lost: Lost) -> None:
    """One block takes them all, and the journal has each end."""
    lost.chain.mining = True
    found = lost.loop.run_until_complete(lost.sender().recover())
    assert [each.outcome for each in found] == [Outcome.MINED] * LOST
    assert [each.hash for each in found] == lost.chain.mined
    assert lost.open() == [] and lost.loop.now_s < WAIT_S / 2


def test_a_recovery_that_is_cancelled_is_taken_up_again(lost: Lost) -> None:
    """While it waits nothing is given up, and the same sender recovers all afterwards."""
    sender = lost.sender()

    async def cut() -> None:
        async with asyncio.timeout(5):
            await sender.recover()

    with pytest.raises(TimeoutError):
        lost.loop.run_until_complete(cut())
    assert lost.open() == [*range(LOST)]
    lost.chain.pool.clear()
    lost.chain.mining = True
    found = lost.loop.run_until_complete(sender.recover())
    assert [each.outcome for each in found] == [Outcome.MINED] * LOST


def test_the_lowest_one_is_raised_while_all_wait(lost: Lost) -> None:
    """Blocks leave the first in line out: its fee alone rises, and then all are mined."""
    sender = lost.sender(stuck_blocks=3)

    async def blocks() -> None:
        while not sender.fees_raised:
            await asyncio.sleep(2)
            lost.chain.blocks.append((lost.loop.time(), 0))
        lost.chain.mining = True

    async def together() -> list[Outcome]:
        found, _ = await asyncio.gather(sender.recover(), blocks())
        return [each.outcome for each in found]

    assert lost.loop.run_until_complete(together()) == [Outcome.MINED] * LOST
    assert nonces(lost.rpc) == [*range(LOST), 0] and sender.fees_raised == 1
    assert lost.open() == [] and lost.loop.now_s < WAIT_S


def test_what_is_refused_holds_up_no_other(lost: Lost) -> None:
    """One is refused and stays open; the others are sent, and mined once it is taken."""

    class Refusing(ModelRpc):
        refuses = True

        async def broadcast(self, raw: bytes) -> None:
            if self.refuses and fees._fields(raw)["nonce"] == 2:
                raise ChainError("insufficient funds for gas * price + value")
            await super().broadcast(raw)

    rpc = lost.rpc = Refusing(lost.chain)
    lost.chain.mining = True
    sender = lost.sender()
    found = lost.loop.run_until_complete(sender.recover())
    outcomes = [each.outcome for each in found]
    assert outcomes[:3] == [Outcome.MINED, Outcome.MINED, Outcome.UNKNOWN]
    assert set(outcomes[3:]) == {Outcome.PENDING} and len(lost.open()) == LOST - 2
    rpc.refuses = False
    lost.loop.run_until_complete(sender.recover())
    lost.loop.run_until_complete(sender.recover())
    assert len(lost.chain.mined) == LOST and lost.open() == []


def test_a_lagging_machine_does_not_make_a_mined_call_fail(lost: Lost) -> None:
    """Behind one address one machine counts the nonce as used, and the one that is asked for the
    receipt does not have the block yet. FAILED is final, so that must last."""
    lost.chain.mining = True
    for each in lost.loop.run_until_complete(lost.journal.pending(lost.sender().address)):
        lost.chain.send(each.raw)
    lost.loop.pass_time(10)
    lost.rpc.hides = True
    sender = lost.sender()
    found = lost.loop.run_until_complete(sender.recover())
    assert {each.outcome for each in found} == {Outcome.UNKNOWN}
    lost.loop.pass_time(20)
    assert {each.outcome for each in lost.loop.run_until_complete(sender.recover())} == {
        Outcome.UNKNOWN
    }
    assert lost.rpc.broadcasts == [], "a used nonce is not sent again"
    lost.rpc.hides = False
    found = lost.loop.run_until_complete(sender.recover())
    assert {each.outcome for each in found} == {Outcome.MINED} and lost.open() == []


def test_a_filler_takes_no_nonce_that_the_endpoint_does_not_count_up_to(lost: Lost) -> None:
    """The pool lost the first of the open ones, and has what was sent by hand behind it: that is
    not replaced while the first one does not arrive."""
    sender = lost.sender()
    for entry in lost.loop.run_until_complete(lost.journal.pending(sender.address)):
        if entry.nonce in (1, 2):
            lost.loop.run_until_complete(lost.journal.resolve(entry.hash, Outcome.FAILED))
            lost.chain.send(entry.raw)  # they stand for the operator's own
    by_hand = dict(lost.chain.pool)
    lost.rpc.fault = "lost"
    for _ in range(5):
        lost.loop.run_until_complete(sender.recover())
        lost.loop.pass_time(31)
    assert lost.open() == [0, 3, 4, 5, 6, 7], "no filler was signed"
    assert lost.chain.pool == by_hand
