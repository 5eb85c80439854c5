"""One key's transactions under an endpoint that lies, lags and forgets: none is lost or doubled.

The real sender and tracker drive a model chain. Somebody sends with the same key by hand, processes
are killed and start again with their journal. Time is virtual. A lie ends before ``LASTS_S``, and
the next begins only after `recover` has had honest answers: longer lies are not bounded, see
``viz.chain.nonces``, whose rules N1 to N6 this holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.model_chain import ASKED, GWEI, ModelChain, ModelRpc
from tests.fakes.virtual_time import VirtualLoop

from viz.chain import fees
from viz.chain.fillers import FILLER
from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.nonces import LASTS_S, MOST_APART, MOST_FILLED
from viz.chain.sender import REPEATABLE, Sender
from viz.domain.eip712 import keccak
from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.ports.transactions import Call, Outcome
from viz.domain.units import Hash32
from viz.errors import ChainUnreachable, TransactionFailed

ACCOUNT: Final = development_account(1)
WAIT_S: Final = 3.0
# How often an honest endpoint must be asked until everything has ended.
ROUNDS: Final = 16
LIE_S: Final = LASTS_S - 1
offsets = st.sampled_from([-(10**6), -200, -3, -1, 1, 2, 30, 64, 65, 200, 10**6])


class Journal(MemoryJournal):
    """Tells the machine what is signed, and how it is said to have ended."""

    def __init__(self, machine: Nonces) -> None:
        super().__init__()
        self.machine = machine

    async def record(self, transaction: SignedTransaction) -> None:
        self.machine.check_signed(transaction)
        await super().record(transaction)

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        self.machine.check_end(self._all[transaction_hash], outcome)
        await super().resolve(transaction_hash, outcome)


class Nonces(RuleBasedStateMachine):
    """Random histories of one account."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.chain = ModelChain()
        self.rpc = ModelRpc(self.chain)
        self.signed: dict[int, list[SignedTransaction]] = {}
        self.given_up: set[Hash32] = set()
        self.refused: set[Hash32] = set()
        self.by_hand: set[Hash32] = set()
        self.lied_s = -LASTS_S
        self.honest_since = True
        self.lies = self.calls = self.fillers = self.forgotten = 0
        self.journal = Journal(self)
        self.restart()

    @initialize(sent=st.sampled_from([0, 1, 70, 400]), seed=st.integers(0, 3))
    def begin(self, sent: int, seed: int) -> None:
        """The key has sent before."""
        self.rpc = ModelRpc(self.chain, seed)
        self.chain.mined = [Hash32(number.to_bytes(32, "big")) for number in range(sent)]
        self.chain.blocks = [(-LASTS_S, sent)]
        self.restart()

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.loop.close()

    # what the process does

    @rule()
    def restart(self) -> None:
        self.sender = Sender(self.rpc, ACCOUNT, DEPLOYMENT, journal=self.journal, wait_s=WAIT_S)
        self.knows = False

    @rule(claim=st.booleans(), count=st.sampled_from([1, 1, 1, 3]))
    def submit(self, claim: bool, count: int) -> None:
        async def together() -> None:
            await asyncio.gather(*(self.sent(claim) for _ in range(count)))

        self.run(together())

    @rule(claim=st.booleans(), fault=st.sampled_from(["lost", "unanswered", "killed"]))
    def submit_badly(self, claim: bool, fault: str) -> None:
        """The broadcast does not arrive, or its answer does not, or the process dies at it."""
        self.rpc.fault = fault
        self.run(self.sent(claim))
        self.rpc.fault = ""
        if fault == "killed":
            self.restart()

    @rule()
    def recover(self) -> None:
        self.run(self.sender.recover())
        self.honest_since = self.honest_since or not self.lying

    async def sent(self, claim: bool) -> Outcome | None:
        self.calls += 1
        units = self.calls
        call = Call("Token", "mint", (self.sender.address, units))
        if claim:
            call = Call("Settlement", "claim", (units.to_bytes(4, "big"),))
        honest = self.honest
        try:
            outcome = (await self.sender.submit(call)).outcome
        except (ChainUnreachable, TransactionFailed):
            return None  # nothing was sent
        self.knows |= honest  # from now on this process has had a true count
        return outcome

    # what the world does

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0, LASTS_S, 2 * LASTS_S]))
    def wait(self, seconds: float) -> None:
        if self.lying and seconds > LIE_S - (self.loop.time() - self.lied_s):
            self.be_honest()
        self.loop.pass_time(seconds)
        self.chain.until(self.loop.time())

    @precondition(lambda self: self.honest_since and not self.lying)
    @rule(pending=st.just(0) | offsets, mined=st.just(0) | offsets, hides=st.booleans())
    def lie(self, pending: int, mined: int, hides: bool) -> None:
        self.tell(pending, mined, hides)

    @precondition(lambda self: self.honest_since and not self.lying)
    @rule(both=offsets)
    def lie_alike(self, both: int) -> None:
        self.tell(both, both, False)

    @precondition(lambda self: self.honest_since and not self.lying)
    @rule(pending=offsets, alike=st.booleans(), claim=st.booleans())
    def submit_under_a_lie(self, pending: int, alike: bool, claim: bool) -> None:
        """After an honest call, as most lies meet a process that knows something."""
        self.submit(claim, 1)
        self.tell(pending, pending if alike else 0, False)
        self.submit(claim, 1)
        self.be_honest()

    def tell(self, pending: int, mined: int, hides: bool) -> None:
        self.rpc.more = {"pending": pending, "mined": mined}
        self.rpc.hides = hides
        self.lied_s, self.honest_since = self.loop.time(), False
        self.lies += 1

    @rule()
    def be_honest(self) -> None:
        self.rpc.more = {"pending": 0, "mined": 0}
        self.rpc.hides = False

    @rule(lags_s=st.sampled_from([(0.0,), (0.0, 3.0), (0.0, 0.0, 20.0), (9.0,)]))
    def lag(self, lags_s: tuple[float, ...]) -> None:
        self.rpc.lags_s = lags_s

    @rule(first=st.integers(0, 5), count=st.integers(1, 99))
    def forget(self, first: int, count: int) -> None:
        """The pool drops some of what waits, for good."""
        for nonce in sorted(self.chain.pool)[first : first + count]:
            raw = self.chain.pool.pop(nonce)
            self.forgotten += keccak(raw) in self.by_hand

    @rule()
    def send_by_hand(self) -> None:
        """A wallet that reads the chain itself sends with the key."""
        nonce = self.chain.pending_count()
        fields = {"type": 2, "chainId": 31337, "nonce": nonce, "gas": 21_000, "value": 1}
        paid = {"maxFeePerGas": ASKED.max_fee_wei, "maxPriorityFeePerGas": GWEI}
        to = {"to": self.sender.address, "data": b""}
        entry = fees.sign(ACCOUNT, fields | paid | to, "by hand")
        self.by_hand.add(entry.hash)
        self.chain.send(entry.raw)

    @rule(mining=st.booleans())
    def mine(self, mining: bool) -> None:
        self.chain.mining = mining

    # what must hold

    @property
    def lying(self) -> bool:
        return self.rpc.hides or any(self.rpc.more.values())

    @property
    def honest(self) -> bool:
        return not self.lying and self.rpc.lags_s == (0.0,)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end; a lie ends meanwhile if it would last too long."""

        async def bounded() -> Any:
            ending = self.loop.call_at(self.lied_s + LIE_S, self.be_honest) if self.lying else None
            try:
                return await work
            finally:
                if ending is not None:
                    ending.cancel()

        try:
            return self.loop.run_until_complete(bounded())
        except (ChainUnreachable, asyncio.CancelledError):
            return None

    def check_signed(self, entry: SignedTransaction) -> None:
        """N1, N2, N5: when a transaction is signed, before the chain can see it."""
        before = self.signed.setdefault(entry.nonce, [])
        if not any(call_of(entry) == call_of(each) for each in before):
            if entry.nonce >= len(self.chain.mined):
                ended = self.given_up | self.refused
                assert {each.hash for each in before} <= ended, "one may still be mined"
            own = {key for key in self.signed if self.signed[key] and key < entry.nonce}
            lost = [
                key for key in own if key >= len(self.chain.mined) and key not in self.chain.pool
            ]
            if self.honest and (not lost or entry.description == FILLER):
                there = self.chain.pool.get(entry.nonce, b"")
                assert keccak(there) not in self.by_hand, "it was sent by hand"
        if self.knows:  # N4
            waiting = sum(1 for key in self.signed if key >= len(self.chain.mined))
            ahead = entry.nonce - self.chain.pending_count()
            assert ahead <= 2 * MOST_APART + 3 * waiting, "it is far ahead of all that is known"
        before.append(entry)
        self.fillers += entry.description == FILLER
        assert self.fillers <= MOST_FILLED * self.lies + self.forgotten

    def check_end(self, entry: SignedTransaction, outcome: Outcome) -> None:
        """What the journal says is true, and only what is out of reach is given up."""
        mined = self.chain.mined
        if outcome is Outcome.MINED:
            assert entry.hash in mined
            return
        assert entry.hash not in mined, "it was mined, and is said to have failed"
        if entry.nonce < len(mined):
            return
        if all(keccak(raw) != entry.hash for raw in self.chain.pool.values()) and (
            entry.nonce <= len(mined) + MOST_FILLED
        ):
            self.refused.add(entry.hash)
            assert self.chain.pool.get(entry.nonce), "nothing refused it"
            return
        assert entry.nonce > len(mined) + MOST_FILLED
        assert entry.description in REPEATABLE or entry.description == FILLER
        self.given_up.add(entry.hash)

    def end(self) -> None:
        """An honest endpoint: everything ends that is within reach, and a new call is mined."""
        self.be_honest()
        self.rpc.lags_s, self.chain.mining = (0.0,), True
        for _ in range(ROUNDS):
            self.run(self.sender.recover())
            self.wait(LASTS_S)
        assert self.run(self.sent(False)) is Outcome.MINED
        waiting = self.loop.run_until_complete(self.journal.pending(self.sender.address))
        for entry in waiting:
            assert entry.nonce > len(self.chain.mined) + MOST_FILLED
            assert entry.description not in REPEATABLE and entry.description != FILLER


def call_of(entry: SignedTransaction) -> dict[str, Any]:
    """Return what a transaction does, without its fees."""
    found = fees._fields(entry.raw)
    return {key: value for key, value in found.items() if "Fee" not in key}


TestNonces = Nonces.TestCase
TestNonces.settings = settings(max_examples=60, stateful_step_count=30)
