"""The sender against a real chain: nonces, refusals, and outcomes that nobody told us."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.chain.testnet import Testnet, terms

from viz.chain import fees
from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.nonces import MOST_APART
from viz.chain.rpc import Fees, Rpc, TransactionReceipt
from viz.chain.sender import Sender
from viz.domain.eip712 import keccak
from viz.domain.ports.transactions import Call, Outcome
from viz.domain.units import Address, Hash32, hex_of
from viz.errors import ChainError, ChainUnreachable, FeeTooHigh, TransactionFailed, VizError

GWEI = 10**9


class LossyRpc(Rpc):
    """A connection that breaks at a broadcast: before the chain saw it, or after."""

    before = after = repeats = vague = False

    async def broadcast(self, raw: bytes) -> None:
        if self.before:
            raise ChainUnreachable("the connection broke")
        if self.vague:
            raise ChainError("something went wrong upstream")
        await super().broadcast(raw)
        if self.repeats:
            while await Rpc.receipt(self, keccak(raw)) is None:  # noqa: ASYNC110  it calls nobody
                await asyncio.sleep(0.01)
            await super().broadcast(raw)
        if self.after:
            raise ChainUnreachable("the answer was lost")


def mint(sender: Sender, units: int = 1) -> Call:
    return Call("Token", "mint", (sender.address, units))


async def recovered(sender: Sender) -> dict[Hash32, Outcome]:
    """Return the end of each transaction without one; a block may come after the first look-up."""
    ends: dict[Hash32, Outcome] = {}
    async with asyncio.timeout(60):
        while found := await sender.recover():
            ends |= {each.hash: each.outcome for each in found}
            await asyncio.sleep(0.02)
    return ends


async def test_concurrent_submissions_never_share_a_nonce(net: Testnet) -> None:
    """Twenty calls at once from one key all settle, each once."""
    sender = net.sender(1)
    sent = await asyncio.gather(*(sender.submit(mint(sender)) for _ in range(20)))
    assert {each.outcome for each in sent} == {Outcome.MINED}
    assert await net.chain.token_balance(sender.address) == 20


async def test_a_refused_call_is_named_and_costs_nothing(net: Testnet) -> None:
    """Registering an adapter without a grant gives the contract's reason and sends nothing."""
    sender = net.sender(1)
    work = await net.register_work(net.sender(2))
    words = [work << 16 | 10_000]
    arguments = (b"\1" * 32, b"\2" * 32, "cid", b"\3" * 32, 3_000, 1_000, words)
    with pytest.raises(
        TransactionFailed, match=r"no valid grant.*Unlicensed: content id 1"
    ) as caught:
        await sender.submit(Call("AdapterRegistry", "register", arguments))
    assert caught.value.extensions["args"] == {"contentId": 1, "trainer": sender.address}
    assert await net.rpc.transaction_count(sender.address) == 0


@pytest.mark.parametrize("lost", ["before", "after", "vague"])
async def test_an_unknown_outcome_is_looked_up_and_happens_once(net: Testnet, lost: str) -> None:
    """A broadcast without an answer is UNKNOWN; recovery finds or repeats it, never doubles it."""
    rpc = LossyRpc(net.anvil.url)
    journal = MemoryJournal()
    sender = Sender(rpc, development_account(1), net.deployment, journal=journal)
    setattr(rpc, lost, True)
    sent = await sender.submit(mint(sender, 7))
    assert sent.outcome is Outcome.UNKNOWN
    setattr(rpc, lost, False)
    restarted = Sender(rpc, development_account(1), net.deployment, journal=journal)
    assert await recovered(restarted) == {sent.hash: Outcome.MINED}
    assert await net.chain.token_balance(sender.address) == 7
    await rpc.close()


async def test_a_repeated_broadcast_that_is_refused_is_not_a_failure(net: Testnet) -> None:
    """The first one arrived: the refusal of its repetition says nothing."""
    rpc = LossyRpc(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment)
    rpc.repeats = True
    assert (await sender.submit(mint(sender, 3))).outcome is Outcome.MINED
    assert await net.chain.token_balance(sender.address) == 3
    await rpc.close()


async def test_one_wrong_count_of_an_endpoint_stops_no_later_transaction(net: Testnet) -> None:
    """A nonce far ahead was signed and journaled: nothing was mined from then on, and no deposit
    could be relayed, and no channel be claimed or closed."""
    rpc = Miscounting(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment)
    assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
    rpc.wrong["transaction_count"] = 2**60
    with pytest.raises(ChainUnreachable, match="nothing was sent"):
        await sender.submit(mint(sender, 2))
    rpc.wrong.clear()
    assert (await sender.submit(mint(sender, 4))).outcome is Outcome.MINED
    assert await net.chain.token_balance(sender.address) == 5
    await rpc.close()


async def test_a_gap_before_a_nonce_is_filled(net: Testnet) -> None:
    """The endpoint counted one transaction too many, which a pool had dropped: the next one of the
    sender takes its place, and both are mined."""
    rpc = Miscounting(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=0.3)
    rpc.more["transaction_count"] = 1
    assert (await sender.submit(mint(sender, 1))).outcome is Outcome.PENDING
    rpc.more.clear()
    assert (await sender.submit(mint(sender, 2))).outcome is Outcome.MINED
    assert set((await recovered(sender)).values()) == {Outcome.MINED}
    assert await net.chain.token_balance(sender.address) == 3
    await rpc.close()


@pytest.mark.parametrize("missing", [1, 60])
async def test_a_transaction_that_waits_alone_behind_a_gap_is_mined(
    net: Testnet, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """What a lone claim waits for: nothing else is sent that would fill the gap before it, and the
    payer of a closing channel would get back what the node earned."""
    rpc = Miscounting(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=0.3)
    rpc.more["transaction_count"] = missing
    sent = await sender.submit(mint(sender, 1))
    assert sent.outcome is Outcome.PENDING
    rpc.more.clear()
    mined = await rpc.mined_count(sender.address)
    assert [found.outcome for found in await sender.recover()] == [Outcome.PENDING]
    await sender.recover()
    assert await rpc.mined_count(sender.address) == mined, "one may be on its way"
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    assert set((await recovered(sender)).values()) == {Outcome.MINED}
    assert await rpc.mined_count(sender.address) == mined + missing + 1
    assert await net.chain.token_balance(sender.address) == 1
    await rpc.close()


async def test_filling_a_gap_replaces_nothing_and_is_tried_again(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the operator sent by hand within the gap stays, and a filler that the endpoint refuses,
    here for a wrong estimate of its gas, does not block the account."""
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    rpc = Miscounting(net.anvil.url)
    account = development_account(1)
    await net.anvil.automine(False)
    sender = Sender(rpc, account, net.deployment, wait_s=0.1)
    for more, amount in ((3, 1), (1, 2)):  # the second is sent by hand, as from another program
        rpc.more["transaction_count"] = more
        sent = await Sender(
            rpc, account, net.deployment, wait_s=0.1, journal=sender._journal if more == 3 else None
        ).submit(mint(sender, amount))
        assert sent.outcome is Outcome.PENDING
    rpc.more.clear()
    rpc.refused = 1
    for _ in range(5):
        await sender.recover()
        await net.anvil.mine()
    await net.anvil.automine(True)
    assert set((await recovered(sender)).values()) <= {Outcome.MINED}
    assert rpc.refused == 0
    assert await net.chain.token_balance(sender.address) == 3
    await rpc.close()


async def test_counts_that_lie_together_are_believed_only_if_that_lasts(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both counts are too high, in a process that has sent: nothing is signed that is never mined.
    If other programs did send so much with the key, the sender goes on after half a minute."""
    rpc = Miscounting(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=2)
    assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
    rpc.more = dict.fromkeys(("transaction_count", "mined_count"), 10**6)
    with pytest.raises(ChainUnreachable, match="half a minute"):
        await sender.submit(mint(sender, 2))
    rpc.more.clear()
    assert (await sender.submit(mint(sender, 4))).outcome is Outcome.MINED
    nonce = await net.rpc.mined_count(sender.address) + 100
    await net.rpc.request("anvil_setNonce", [sender.address, hex(nonce)])
    with pytest.raises(ChainUnreachable, match="half a minute"):
        await sender.submit(mint(sender, 8))
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    assert (await sender.submit(mint(sender, 16))).outcome is Outcome.MINED
    assert await net.chain.token_balance(sender.address) == 21
    await rpc.close()


async def test_a_gap_without_end_costs_nothing(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose first two counts both lied signed what cannot be reached: no coins go there,
    other transactions are mined, and a claim is given up, so that it is made again."""
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    rpc = Miscounting(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=0.3)
    rpc.more = dict.fromkeys(("transaction_count", "mined_count"), 10**6)
    assert (await sender.submit(mint(sender, 1))).outcome is Outcome.PENDING
    rpc.more.clear()
    mined = await rpc.mined_count(sender.address)
    for _ in range(4):
        await sender.recover()
    assert await rpc.mined_count(sender.address) == mined
    assert (await sender.submit(mint(sender, 2))).outcome is Outcome.MINED
    assert len(await sender.recover()) == 1
    monkeypatch.setattr("viz.chain.sender.REPEATABLE", {"Token.mint"})
    for _ in range(3):
        await sender.recover()
    assert await sender.recover() == ()
    await rpc.close()


async def test_a_replacement_that_is_refused_leaves_the_original_its_chance(net: Testnet) -> None:
    """The replacement's fee is above what the account has, and the pool forgot the original: it is
    sent again, so that the account is not blocked for good."""
    rpc = Miscounting(net.anvil.url)
    account = development_account(1)
    sender = Sender(rpc, account, net.deployment, wait_s=0.1)
    await net.anvil.automine(False)
    sent = await sender.submit(mint(sender, 1))
    assert sent.outcome is Outcome.PENDING
    (entry,) = await sender._journal.pending(sender.address)
    asked = await rpc.fees()
    higher = fees.replacement(
        entry, account, Fees(asked.base_fee_wei, 10**20, 10**20), None, urgent=True
    )
    assert higher is not None
    await sender._journal.record(higher)
    await net.rpc.request("anvil_dropTransaction", [hex_of(sent.hash)])
    await net.anvil.automine(True)
    ends = await recovered(sender)
    assert ends[sent.hash] is Outcome.MINED
    assert await net.chain.token_balance(sender.address) == 1
    await rpc.close()


@pytest.mark.parametrize("which", ["transaction_count", "mined_count"])
@pytest.mark.parametrize("answer", [0, 2**60])
async def test_a_wrong_count_is_forgotten_when_the_endpoint_is_right_again(
    net: Testnet, which: str, answer: int
) -> None:
    """Of a key that has sent much, one wrong answer before the first transaction of a process, or
    later, must not stop all that follow: deposits, closes and claims."""
    await net.rpc.request("anvil_setNonce", [development_account(1).address, hex(MOST_APART + 10)])
    rpc = Miscounting(net.anvil.url)
    for later in (False, True):
        sender = Sender(rpc, development_account(1), net.deployment, wait_s=2)
        if later:
            assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
        rpc.wrong[which] = answer
        try:
            assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
        except ChainUnreachable as error:
            assert "nothing was sent" in error.detail
        rpc.wrong.clear()
        for _ in range(2):
            assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
    await rpc.close()


async def test_an_endpoint_that_is_some_blocks_behind_takes_no_used_nonce(net: Testnet) -> None:
    """Right after a block, an endpoint that does not have it yet counts one less."""
    rpc = Miscounting(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=2)
    for _ in range(2):
        assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
        rpc.more = dict.fromkeys(("transaction_count", "mined_count"), -1)
    await rpc.close()


async def test_a_block_that_is_gone_leaves_no_gap(net: Testnet) -> None:
    """A reorganisation took a transaction that was seen in a block: its nonce is used again."""
    rpc = Rpc(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=0.3)
    before = await net.anvil.snapshot()
    assert (await sender.submit(mint(sender, 1))).outcome is Outcome.MINED
    await net.anvil.revert(before)
    assert (await sender.submit(mint(sender, 2))).outcome is Outcome.MINED
    assert await net.chain.token_balance(sender.address) == 2
    await rpc.close()


async def test_what_was_sent_by_hand_is_not_replaced(net: Testnet) -> None:
    """The operator's own transfer waits in the pool, and the node's transactions queue behind."""
    account = development_account(1)
    await net.anvil.automine(False)
    by_hand = Sender(net.rpc, account, net.deployment, wait_s=0.1)
    assert (await by_hand.submit(mint(by_hand, 1))).outcome is Outcome.PENDING
    sender = Sender(net.rpc, account, net.deployment, wait_s=0.1)
    for amount in (2, 4):
        assert (await sender.submit(mint(sender, amount))).outcome is Outcome.PENDING
    await net.anvil.mine()
    assert await net.chain.token_balance(sender.address) == 7
    await net.anvil.automine(True)


class Miscounting(Rpc):
    """An endpoint whose counts of a key's transactions may be wrong: told, or with ``more``."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.wrong: dict[str, int] = {}
        self.more: dict[str, int] = {}
        self.refused = 0

    async def broadcast(self, raw: bytes) -> None:
        if self.refused:
            self.refused -= 1
            raise ChainError("intrinsic gas too low")
        await super().broadcast(raw)

    async def transaction_count(self, address: Address) -> int:
        return self._told("transaction_count", await super().transaction_count(address))

    async def mined_count(self, address: Address) -> int:
        return self._told("mined_count", await super().mined_count(address))

    def _told(self, which: str, true: int) -> int:
        return self.wrong.get(which, true + self.more.get(which, 0))


async def test_a_new_transaction_waits_its_turn_behind_an_unknown_one(net: Testnet) -> None:
    """The nonce of a lost transaction is not given away: both happen."""
    rpc = LossyRpc(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment, wait_s=0.3)
    rpc.before = True
    lost = await sender.submit(mint(sender, 1))
    assert lost.outcome is Outcome.UNKNOWN
    rpc.before = False
    later = await sender.submit(mint(sender, 10))
    assert later.outcome is Outcome.PENDING
    assert await recovered(sender) == dict.fromkeys((lost.hash, later.hash), Outcome.MINED)
    assert await net.chain.token_balance(sender.address) == 11
    await rpc.close()


async def test_a_transaction_whose_nonce_was_taken_is_failed(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can never happen any more is FAILED once that lasts, so nothing waits for ever."""
    rpc = LossyRpc(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment)
    rpc.before = True
    await sender.submit(mint(sender, 5))
    other = net.sender(1)
    await net.done(other, "Token", "mint", other.address, 2)
    (found,) = await sender.recover()
    assert found.outcome is Outcome.UNKNOWN, "the endpoint may be behind"
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    (found,) = await sender.recover()
    assert found.outcome is Outcome.FAILED
    assert await net.chain.token_balance(sender.address) == 2
    await rpc.close()


async def test_a_revert_in_the_block_is_reported_as_failed(net: Testnet) -> None:
    """A call that was good when simulated and bad when mined is reported as FAILED."""
    creator, trainer = net.sender(1), net.sender(2)
    work = await net.register_work(creator)
    state = await net.chain.content(work)
    assert state is not None
    await net.mint(trainer.address, 100)
    await net.done(trainer, "Token", "approve", net.deployment.content_registry, 100)

    class Overtaken(Rpc):
        """Lets the creator change the terms between the simulation and the broadcast."""

        async def broadcast(self, raw: bytes) -> None:
            changed = (work, b"\7" * 32, terms(notice_s=1).abi())
            await net.done(creator, "ContentRegistry", "setTerms", *changed)
            await super().broadcast(raw)

    rpc = Overtaken(net.anvil.url)
    late = Sender(rpc, development_account(2), net.deployment)
    sent = await late.submit(Call("ContentRegistry", "acquireGrant", (work, state.terms_hash)))
    assert sent.outcome is Outcome.FAILED
    assert await net.chain.token_balance(trainer.address) == 100
    await rpc.close()


async def test_an_account_without_gas_is_told_so(net: Testnet) -> None:
    """No coin for gas: one clear line, and the nonce stays free."""
    sender = net.sender(3)
    await net.anvil.fund(sender.address, 1)
    with pytest.raises(Exception, match=r"(?i)insufficient funds") as caught:
        await sender.submit(mint(sender))
    assert isinstance(caught.value, VizError) and caught.value.quotes
    assert f"from {sender.address}" in caught.value.detail
    assert caught.value.detail.endswith(
        "Send the account coins for gas, or use a key that has some"
    )
    assert caught.value.detail.count("coin") == 1
    await net.anvil.fund(sender.address)
    assert (await sender.submit(mint(sender))).outcome is Outcome.MINED


async def base_fee(net: Testnet, gwei: int) -> None:
    """Make the chain ask this much for a unit of gas, from the next block on."""
    await net.rpc.request("anvil_setNextBlockBaseFeePerGas", [hex(gwei * GWEI)])
    await net.anvil.mine()


async def test_no_fee_above_the_operators_bound_is_signed(net: Testnet) -> None:
    """Whatever the RPC names, a transaction pays the bound at most, an urgent one four times it."""
    sender = Sender(net.rpc, development_account(1), net.deployment, max_fee_wei=20 * GWEI)
    assert (await sender.submit(mint(sender))).outcome is Outcome.MINED
    await base_fee(net, 60)
    with pytest.raises(FeeTooHigh, match=f"this node pays at most {20 * GWEI}"):
        await sender.submit(mint(sender))
    assert await net.rpc.transaction_count(sender.address) == 1
    sent = await sender.submit(mint(sender), urgent=True)
    assert sent.outcome is Outcome.MINED
    found = await net.rpc.request("eth_getTransactionByHash", [hex_of(sent.hash)])
    assert int(found["maxFeePerGas"], 16) == 80 * GWEI
    await base_fee(net, 200)
    with pytest.raises(FeeTooHigh):
        await sender.submit(mint(sender), urgent=True)


async def test_a_transaction_that_no_block_takes_is_replaced_within_the_bound(net: Testnet) -> None:
    """A fee that was overtaken does not hold the node's later transactions up for ever."""
    journal = MemoryJournal()
    sender = Sender(
        net.rpc,
        development_account(1),
        net.deployment,
        journal=journal,
        wait_s=0.3,
        max_fee_wei=50 * GWEI,
    )
    await net.anvil.automine(False)
    stuck = await sender.submit(mint(sender, 7))
    assert stuck.outcome is Outcome.PENDING
    await base_fee(net, 100)
    (waiting,) = await sender.recover()
    assert waiting.hash == stuck.hash, "the next fee is above the bound"
    (dearer,) = await sender.recover(urgent=True)
    assert dearer.outcome is Outcome.PENDING and dearer.hash != stuck.hash
    later = await sender.submit(mint(sender, 10), urgent=True)
    await net.anvil.mine()
    ends = {each.hash: each.outcome for each in await sender.recover()}
    assert ends[dearer.hash] is Outcome.MINED and ends[stuck.hash] is Outcome.FAILED
    assert ends[later.hash] is Outcome.MINED
    assert await sender.recover() == ()
    assert await net.chain.token_balance(sender.address) == 17


async def test_a_replacement_ends_what_it_replaces(net: Testnet) -> None:
    """Where the dearer one is mined at once, nothing is left to look up, and it happened once."""
    sender = net.sender(1, wait_s=0.3)
    await net.anvil.automine(False)
    stuck = await sender.submit(mint(sender, 7))
    await base_fee(net, 100)
    await net.anvil.automine(True)
    ends = await recovered(sender)
    assert ends.pop(stuck.hash, Outcome.FAILED) is Outcome.FAILED
    assert [*ends.values()] == [Outcome.MINED]
    assert await net.chain.token_balance(sender.address) == 7


async def test_a_used_nonce_is_no_failure_while_the_chain_is_not_sure(net: Testnet) -> None:
    """Behind one address several nodes answer: a repetition is too old where the first was mined,
    and the next look-up reaches one that lags."""

    class Lagging(LossyRpc):
        lags = True

        async def knows(self, transaction_hash: Hash32) -> bool:
            return not self.lags and await super().knows(transaction_hash)

        async def receipt(self, transaction_hash: Hash32) -> TransactionReceipt | None:
            return None if self.lags else await super().receipt(transaction_hash)

    rpc = Lagging(net.anvil.url)
    sender = Sender(rpc, development_account(1), net.deployment)
    rpc.repeats = True
    sent = await sender.submit(mint(sender, 3))
    assert sent.outcome is Outcome.UNKNOWN
    rpc.repeats = rpc.lags = False
    assert await recovered(sender) == {sent.hash: Outcome.MINED}
    assert await net.chain.token_balance(sender.address) == 3
    await rpc.close()


async def test_two_processes_with_one_key_lose_nothing(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second with a nonce learns that it did not happen, and may try again."""
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    await net.done(net.sender(1), "Token", "mint", net.sender(1).address, 2)
    rpc = Miscounting(net.anvil.url)
    rpc.more = dict.fromkeys(("transaction_count", "mined_count"), -1)
    sender = Sender(rpc, development_account(1), net.deployment)
    assert (await sender.submit(mint(sender, 5))).outcome is Outcome.UNKNOWN
    rpc.more.clear()
    (found,) = await sender.recover()
    assert found.outcome is Outcome.FAILED
    assert (await sender.submit(mint(sender, 5))).outcome is Outcome.MINED
    assert await net.chain.token_balance(sender.address) == 7
    await rpc.close()
