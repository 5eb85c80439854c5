"""Recovery of several transactions at once, against a model chain in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.model_chain import ASKED, ModelChain, ModelRpc
from tests.fakes.virtual_time import VirtualLoop

from viz.chain import fees
from viz.chain.endpoint import EndpointRefused
from viz.chain.fillers import EMPTY_GAS, FILLER
from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.nonces import LASTS_S
from viz.chain.rpc import Fees
from viz.chain.sender import Sender
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import Address, Hash32
from viz.errors import (
    ChainError,
    ChainUnreachable,
    TooMuchGas,
    TransactionFailed,
)

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


def test_what_is_first_in_line_is_raised_whatever_stands_before_it(lost: Lost) -> None:
    """The endpoint still shows an open one whose nonce somebody's own transaction used: nothing
    after it was ever raised. One answer of a pass says what is first in line, so it names one."""
    (first, *_) = lost.loop.run_until_complete(lost.journal.pending(lost.sender().address))
    used = fees.replacement(first, ACCOUNT, Fees(1, 9 * 10**9, 2 * 10**9), None)
    assert used is not None
    lost.chain.send(used.raw)
    lost.chain.mine(0)

    class Stale(ModelRpc):
        asked = 0

        async def knows(self, transaction_hash: Hash32) -> bool:
            return transaction_hash == first.hash or await super().knows(transaction_hash)

        async def mined_count(self, address: Address) -> int:
            self.asked += 1
            return await super().mined_count(address)

    rpc = lost.rpc = Stale(lost.chain)
    sender = Sender(rpc, ACCOUNT, DEPLOYMENT, journal=lost.journal, wait_s=0.1, stuck_blocks=3)
    lost.loop.run_until_complete(sender.recover())
    assert nonces(rpc) == [*range(1, LOST)] and lost.open() == [*range(LOST)]
    for _ in range(3):
        rpc.asked = 0
        lost.loop.run_until_complete(sender.recover())
        assert rpc.asked == 1
        lost.chain.blocks += [(lost.loop.time(), 1)] * 3
    assert nonces(rpc)[LOST - 1 :] == [1] and sender.fees_raised == 1


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


BLOCK_GAS = 30_000_000


class Capped(ModelRpc):
    """An endpoint of a chain that takes no transaction with more gas than ``BLOCK_GAS``.

    ``needs`` is what it says that a call needs; ``words`` are those of its refusals.
    """

    needs = 50_000
    words = "exceeds block gas limit"
    coin_wei = 10**18
    fees_now = ASKED

    async def estimate_gas(self, *_: object, **__: object) -> int:
        return self.needs

    async def balance_wei(self, address: Address) -> int:
        return self.coin_wei

    async def fees(self) -> Fees:
        return self.fees_now

    async def broadcast(self, raw: bytes) -> None:
        if self.fault != "lost" and fees._fields(raw)["gas"] > BLOCK_GAS:
            raise ChainError(self.words)
        await super().broadcast(raw)


class Refused:
    """A key of which the chain refuses one call for good; a second call waits behind it."""

    def __init__(self, needs: int = 10**9) -> None:
        self.loop = VirtualLoop()
        self.chain = ModelChain()
        self.rpc = Capped(self.chain)
        self.journal = MemoryJournal()
        self.sender = Sender(self.rpc, ACCOUNT, DEPLOYMENT, journal=self.journal, wait_s=3)
        self.rpc.needs, self.rpc.fault = needs, "lost"
        self.call = self.submit(1)
        self.rpc.needs, self.rpc.fault = 50_000, ""
        assert self.call.outcome is Outcome.UNKNOWN

    def submit(self, units: int) -> Transaction:
        return self.loop.run_until_complete(self.sender.submit(mint(self.sender, units)))

    def passes(self, seconds: float) -> list[Transaction]:
        """Recover every five seconds, as the claim loop does; return the last result."""
        end_s, found = self.loop.time() + seconds, list[Transaction]()
        while self.loop.time() < end_s:
            found = list(self.loop.run_until_complete(self.sender.recover()))
            self.loop.pass_time(5)
        return found

    def open(self) -> list[tuple[int, str]]:
        pending = self.loop.run_until_complete(self.journal.pending(self.sender.address))
        return [(entry.nonce, entry.description) for entry in pending]


def test_a_call_that_the_chain_refuses_for_good_frees_its_nonce() -> None:
    """A lie about its gas was signed, and no answer told of the refusal: it held up all others,
    for ever. An empty transaction takes its nonce, and the call has failed."""
    key = Refused()
    waiting = key.submit(2)
    assert waiting.outcome is Outcome.PENDING
    key.passes(LASTS_S - 5)
    assert key.open() == [(0, "Token.mint"), (1, "Token.mint")], "it may still be taken"
    ended: dict[bytes, Outcome] = {}
    for _ in range(6):
        found = key.loop.run_until_complete(key.sender.recover())
        ended |= {each.hash: each.outcome for each in found if not each.outcome.undecided}
        key.loop.pass_time(5)
    assert ended[key.call.hash] is Outcome.FAILED and ended[waiting.hash] is Outcome.MINED
    assert key.open() == [] and len(key.chain.mined) == 2
    assert key.submit(3).outcome is Outcome.MINED


def test_one_empty_transaction_is_signed_and_a_restart_sends_it() -> None:
    """It is in the journal beside the call before the chain can see it."""
    key = Refused()
    for _ in range(9):
        if len(key.open()) == 1:
            key.passes(5)
    assert key.open() == [(0, "Token.mint"), (0, FILLER)] and not key.chain.pool
    key.sender = Sender(key.rpc, ACCOUNT, DEPLOYMENT, journal=key.journal, wait_s=3)
    key.rpc.fault = "lost"
    key.passes(10 * LASTS_S)
    assert key.open() == [(0, "Token.mint"), (0, FILLER)]
    key.rpc.fault = ""
    (call, empty) = key.passes(5)
    assert (call.outcome, empty.outcome) == (Outcome.FAILED, Outcome.MINED)
    (raw,) = {raw for _, raw in key.rpc.broadcasts}
    assert fees._fields(raw)["gas"] == EMPTY_GAS and not key.open()


@pytest.mark.parametrize(
    "words",
    [
        "replacement transaction underpriced",
        "max fee per gas less than block base fee",
        "nonce too low",
    ],
)
def test_what_a_fee_or_a_turn_cures_is_not_given_up(words: str) -> None:
    """Such a refusal says nothing of the call itself."""
    key = Refused()
    key.rpc.words = words
    key.passes(10 * LASTS_S)
    assert (0, FILLER) not in key.open()


def test_an_account_that_cannot_pay_for_nothing_either_keeps_its_call() -> None:
    """It is taken once there is coin: an empty transaction would only take its place. No block
    left it out, so its fee stays as it is; it climbed to the bound."""
    key = Refused()
    key.rpc.words, key.rpc.coin_wei = "insufficient funds for gas * price + value", 10**9
    key.passes(10 * LASTS_S)
    assert key.open() == [(0, "Token.mint")] and key.sender.fees_raised == 0


def test_a_refusal_that_does_not_last_ends_nothing() -> None:
    """One answer of another kind, and the time begins again."""
    key = Refused()
    for _ in range(5):
        key.passes(LASTS_S - 5)
        key.rpc.words = "nonce too low"
        key.passes(5)
        key.rpc.words = "exceeds block gas limit"
    assert key.open() == [(0, "Token.mint")]


def test_no_more_gas_is_signed_than_a_block_may_use() -> None:
    """A call that needs more can never be mined; a margin is cut."""
    key = Refused(needs=50_000)
    key.passes(10)
    key.rpc.fees_now = replace(ASKED, block_gas=BLOCK_GAS)
    key.rpc.needs = BLOCK_GAS + 1
    with pytest.raises(TransactionFailed, match="more gas than a block of this chain") as caught:
        key.submit(2)
    assert not isinstance(caught.value, TooMuchGas), "no endpoint allows more"
    key.rpc.needs = BLOCK_GAS
    assert key.submit(3).outcome is Outcome.MINED
    assert fees._fields(key.rpc.broadcasts[-1][1])["gas"] == BLOCK_GAS


def test_a_refusal_is_read_in_the_endpoint_s_words_and_not_in_its_url() -> None:
    """The first copy arrived and was mined, and the look-up reached a machine that is behind: the
    call was told as failed, and its caller made it again."""

    class Repeating(ModelRpc):
        async def broadcast(self, raw: bytes) -> None:
            await super().broadcast(raw)
            self.chain.mine(asyncio.get_running_loop().time())
            self.hides = True
            raise ChainError(
                "the chain at https://gas.example refused eth_sendRawTransaction: nonce too low: "
                "address 0x00000000000000000000000000000000000F3Fee, tx: 0 state: 1, code -32000"
            )

    loop, journal = VirtualLoop(), MemoryJournal()
    rpc = Repeating(ModelChain())
    sender = Sender(rpc, ACCOUNT, DEPLOYMENT, journal=journal, wait_s=3)
    sent = loop.run_until_complete(sender.submit(mint(sender, 1)))
    assert sent.outcome is Outcome.UNKNOWN
    rpc.hides = False
    (found,) = loop.run_until_complete(sender.recover())
    assert (found.hash, found.outcome) == (sent.hash, Outcome.MINED)


def test_a_recovery_does_not_send_what_a_call_tells_as_refused() -> None:
    """The recovery read the journal while the call waited for its answer: that is a refusal, by a
    machine that had not seen the account's coin. The caller may make it again."""

    class Slow(ModelRpc):
        refuses = True

        async def broadcast(self, raw: bytes) -> None:
            await asyncio.sleep(1)
            if self.refuses:
                self.refuses = False
                raise ChainError("insufficient funds for gas * price + value")
            await super().broadcast(raw)

        async def mined_count(self, address: Address) -> int:
            await asyncio.sleep(1)
            return await super().mined_count(address)

    loop, chain, journal = VirtualLoop(), ModelChain(), MemoryJournal()
    rpc = Slow(chain)
    sender = Sender(rpc, ACCOUNT, DEPLOYMENT, journal=journal, wait_s=3)

    async def recovery() -> None:
        while not await journal.pending(sender.address):  # noqa: ASYNC110  it calls nobody
            await asyncio.sleep(0.01)
        await sender.recover()

    async def together() -> None:
        recovering = asyncio.create_task(recovery())
        with pytest.raises(TransactionFailed):
            await sender.submit(mint(sender, 1))
        await recovering

    loop.run_until_complete(together())
    assert rpc.broadcasts == [] and chain.mined == [] and not chain.pool


def test_each_of_two_watchers_of_a_nonce_counts() -> None:
    """A refused nonce is given again while a recovery still follows it."""
    tracker = Refused(needs=50_000).sender._tracker
    with tracker.following(7):
        with tracker.following(7):
            assert tracker.follows(7)
        assert tracker.follows(7)
    assert not tracker.follows(7)


def test_a_refusal_in_other_words_leaves_the_original_its_chance() -> None:
    """The endpoint answered: what the replacement was to replace is tried."""
    key = Refused(needs=50_000)
    (entry,) = key.loop.run_until_complete(key.journal.pending(key.sender.address))
    dearer = fees.replacement(entry, ACCOUNT, ASKED, None)
    assert dearer is not None
    odd = dearer.raw
    key.loop.run_until_complete(key.journal.record(dearer))

    class Odd(Capped):
        async def broadcast(self, raw: bytes) -> None:
            if raw == odd:
                raise EndpointRefused("none of the known words")
            await super().broadcast(raw)

    key.sender = Sender(Odd(key.chain), ACCOUNT, DEPLOYMENT, journal=key.journal, wait_s=3)
    key.passes(5)
    assert key.chain.mined == [entry.hash] and key.open() == []


def test_broadcasts_without_an_answer_hold_a_recovery_once(lost: Lost) -> None:
    """The others wait for the next call; each unanswered one would take 20 s more."""

    class Hanging(ModelRpc):
        async def broadcast(self, raw: bytes) -> None:
            await asyncio.sleep(20)
            raise ChainUnreachable("no answer in 20 s")

    lost.rpc = Hanging(lost.chain)
    lost.loop.run_until_complete(lost.sender().recover())
    assert lost.loop.now_s < 21 and len(lost.open()) == LOST
