"""Typed reads of the contracts: what is there, what is not, and what is not there yet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.chain.testnet import CLOSE_DELAY_S, LICENSE, Narrow, Testnet, address, terms

from viz.chain import registrations
from viz.chain.contracts import Chain
from viz.chain.keys import development_account
from viz.chain.registrations import REORG_BLOCKS
from viz.chain.rpc import Log, Rpc
from viz.domain.ports.chain import TermsState
from viz.domain.ports.transactions import Call
from viz.domain.units import ZERO_ADDRESS, AdapterId, ContentId, Hash32
from viz.errors import ChainError, InvalidRequest, TransactionFailed


async def test_what_does_not_exist_is_none_not_zeros(net: Testnet) -> None:
    """No caller can mistake an empty slot for a work, an adapter or a channel."""
    nobody = net.sender(9).address
    assert await net.chain.content(ContentId(1)) is None
    assert await net.chain.grant(ContentId(1), nobody) is None
    assert await net.chain.adapter(AdapterId(1)) is None
    assert await net.chain.channel(nobody, nobody) is None
    assert await net.chain.directory.entry(nobody) is None
    assert await net.chain.terms(Hash32(b"\1" * 32)) is None
    unknown = await net.chain.servable(AdapterId(1), nobody)
    assert (unknown.reason, unknown.until_s) == ("it is not registered", None)


async def test_an_adapter_is_not_believed_before_its_confirmations(net: Testnet) -> None:
    """Ids are sequential and may change hands in a reorganisation (threat 16)."""
    patient = Chain(net.rpc, net.deployment, confirmations=2)
    work = await net.register_work(net.sender(1))
    adapter = AdapterId(await net.register_adapter(net.sender(4), [work]))
    assert await patient.adapter(adapter) is None
    early = await patient.adapter(adapter, confirmed=False)
    await net.anvil.mine(2)
    assert await patient.adapter(adapter) == early
    assert early is not None
    assert early.shares == ((work, 10_000),)


async def test_an_adapter_is_found_where_an_endpoint_serves_few_blocks(net: Testnet) -> None:
    """Its registration is searched in as many questions as the endpoint wants."""
    work = await net.register_work(net.sender(1))
    adapter = AdapterId(await net.register_adapter(net.sender(4), [work]))
    await net.anvil.mine(9)
    rpc = Narrow(net.rpc.url)
    rpc.widest = 2
    found = await Chain(rpc, net.deployment).adapter(adapter)
    assert found is not None and found.shares == ((work, 10_000),)
    await rpc.close()


async def test_a_key_with_code_is_seen(net: Testnet) -> None:
    """A key may let code judge its signatures (EIP-7702): what it signs is not the key's alone."""
    key = net.sender(9).address
    assert not await net.chain.has_code(key)
    code = "0xef0100" + net.deployment.token[2:].lower()
    await net.rpc.request("anvil_setCode", [key, code])
    assert await net.chain.has_code(key)


async def test_the_time_of_an_idle_development_chain_goes_on(net: Testnet) -> None:
    """It makes a block only for a transaction. The next one's time decides what has expired."""
    newest = await net.rpc.block()
    await net.rpc.request("evm_increaseTime", [7_200])
    assert await net.rpc.block() == newest
    assert await net.chain.chain_time() >= newest.time_s + 7_200


class Silent(Rpc):
    """An endpoint that finds no logs, whatever it is asked."""

    async def logs(self, *_: object) -> tuple[Log, ...]:
        return ()


async def test_an_endpoint_without_logs_hides_no_state(net: Testnet) -> None:
    """A close request is in the channel's state; an adapter without its event is not believed."""
    work = await net.register_work(net.sender(1))
    adapter = AdapterId(await net.register_adapter(net.sender(4), [work]))
    node, signer = address(development_account(3)), development_account(6)
    await net.open_channel(net.sender(4), signer, node, 1_000)
    await net.done(net.sender(4), "Settlement", "requestClose", address(signer), node)
    rpc = Silent(net.rpc.url)
    chain = Chain(rpc, net.deployment)
    seen = await chain.channel(address(signer), node)
    assert seen is not None and seen.close_at and seen.deposit_units == 1_000
    with pytest.raises(ChainError, match="keeps the logs"):
        await chain.adapter(adapter)
    assert [each async for each in chain.settlement.opened(node)] == []
    await rpc.close()


async def test_history_is_gone_through_once_for_all_adapters(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers who ask for one unread adapter after another do not make the node pay for each."""
    trainer = net.sender(4)

    async def registered() -> AdapterId:
        work = await net.register_work(net.sender(1))
        return AdapterId(await net.register_adapter(trainer, [work]))

    ids = [await registered() for _ in range(4)]
    await net.anvil.mine(200)
    ids.append(await registered())
    rpc = Narrow(net.rpc.url)
    rpc.widest = 8
    asked, logs = 0, rpc.logs

    async def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return await logs(*args)

    monkeypatch.setattr(rpc, "logs", counted)
    monkeypatch.setattr(registrations, "KEPT", 2)
    chain = Chain(rpc, net.deployment)
    first = await asyncio.gather(*(chain.adapter(ids[-1]) for _ in range(10)))
    assert None not in first and len(set(first)) == 1
    whole = asked
    assert 200 / 8 <= whole < 200
    for adapter_id in ids * 3:
        found = await chain.adapter(adapter_id)
        assert found is not None and found.adapter_id == adapter_id
    # Two are kept; each of the others is one question at the block that is known of it.
    assert asked - whole <= len(ids) * 3
    asked = 0
    assert await chain.adapter(await registered()) is not None
    assert asked <= 2 * REORG_BLOCKS / 8 + 8, "only what is new, and what may be replaced"
    await rpc.close()


async def test_the_grants_of_an_adapter_are_those_before_its_registration(net: Testnet) -> None:
    """A grant that was bought later, or by another trainer, is not what the adapter rests on. The
    contract asks for one, so where none is served, the endpoint lacks it, and is named."""
    owner, trainer = net.sender(2), net.sender(4)
    work = await net.register_work(owner)
    adapter_id = await net.register_adapter(trainer, [work])
    state = await net.chain.adapter(AdapterId(adapter_id))
    assert state is not None
    (grant,) = await net.chain.acquired_grants(state)
    assert (grant.content_id, grant.trainer, grant.owner) == (work, trainer.address, owner.address)
    terms = await net.chain.terms(grant.terms_hash)
    assert terms is not None and grant.fee_units == terms.terms.training_fee_units
    await net.register_adapter(net.sender(6), [work])
    second = await net.register_work(owner)
    again = await net.chain.adapter(AdapterId(await net.register_adapter(trainer, [second])))
    assert await net.chain.acquired_grants(state) == (grant,)
    assert again is not None
    (other,) = await net.chain.acquired_grants(again)
    assert other.content_id == second and other.block_number > grant.block_number
    early = replace(state, adapter_id=AdapterId(adapter_id), shares=((second, 10_000),))
    with pytest.raises(ChainError, match=f"under a grant of work {second}, but the endpoint"):
        await net.chain.acquired_grants(early)  # bought after the registration


async def test_an_end_that_is_set_is_told_before_it_comes(net: Testnet) -> None:
    """A node that may serve until then has to claim before: by retirement, or by the trainer."""
    trainer, node = net.sender(4), net.sender(5).address
    work = await net.register_work(net.sender(1))
    adapter = AdapterId(await net.register_adapter(trainer, [work]))
    await net.done(trainer, "AdapterRegistry", "setServing", adapter, node, True)
    state = await net.chain.servable(adapter, node)
    assert (state.reason, state.until_s) == (None, None)
    await net.done(trainer, "AdapterRegistry", "setServing", adapter, node, False)
    taken = await net.chain.servable(adapter, node)
    assert taken.reason is None and taken.until_s is not None
    assert taken.until_s == await net.chain.chain_time() + 2 * CLOSE_DELAY_S
    await net.done(trainer, "AdapterRegistry", "retire", adapter)
    retired = await net.chain.servable(adapter, trainer.address)
    assert retired.until_s == await net.chain.chain_time() + 2 * CLOSE_DELAY_S


async def test_an_id_that_changed_hands_brings_its_own_share_table(net: Testnet) -> None:
    """A reorganisation may give adapter 1 to another table: the cache notices by the hash."""
    works = [await net.register_work(net.sender(index)) for index in (1, 2)]
    before = await net.anvil.snapshot()
    first = AdapterId(await net.register_adapter(net.sender(4), works))
    seen = await net.chain.adapter(first)
    await net.anvil.revert(before)
    again = AdapterId(await net.register_adapter(net.sender(4), works[1:]))
    now = await net.chain.adapter(again)
    assert seen is not None
    assert now is not None
    assert first == again
    assert [len(seen.shares), len(now.shares)] == [2, 1]


async def test_confirmed_channel_reads_lag_and_work_after_a_withdrawal(net: Testnet) -> None:
    """A deposit counts only when confirmed; the payer stays for ever."""
    patient = Chain(net.rpc, net.deployment, confirmations=1)
    payer, signer, node = net.sender(1), development_account(6), net.sender(5).address
    await net.open_channel(payer, signer, node, 700)
    assert await patient.channel(address(signer), node) is None
    await net.anvil.mine()
    found = await patient.channel(address(signer), node)
    assert found is not None
    assert (found.payer, found.deposit_units, found.settled_units) == (payer.address, 700, 0)
    await net.done(payer, "Settlement", "requestClose", address(signer), node)
    closing = await patient.channel(address(signer), node, confirmed=False)
    assert closing is not None
    assert closing.close_at > await patient.chain_time()
    await net.anvil.advance_time(3_601)
    await net.done(net.sender(8), "Settlement", "withdraw", address(signer), node)
    left = await net.chain.channel(address(signer), node)
    assert left is not None
    assert (left.payer, left.deposit_units, left.close_at) == (payer.address, 0, 0)


async def test_terms_and_directory_come_back_typed(net: Testnet) -> None:
    """Terms by their hash; a node by what it announced."""
    offered = terms(notice_s=77, revocation_class=2)
    await net.register_work(net.sender(1), offered)
    assert await net.chain.terms(offered.terms_hash(LICENSE)) == TermsState(offered, LICENSE)
    node = net.sender(5)
    await net.done(node, "NodeDirectory", "announce", "https://node.example", "age1key")
    (entry,) = await net.chain.node_entries(0, 100)
    assert entry == await net.chain.node_entry(node.address)
    assert await net.chain.node_entry(net.sender(6).address) is None
    assert await net.chain.node_entries(1, 100) == ()
    assert (entry.node, entry.url, entry.age_key) == (
        node.address,
        "https://node.example",
        "age1key",
    )


async def test_a_read_of_something_unknown_is_refused_here(net: Testnet) -> None:
    """Wrong names and reverting views never come back as data."""
    with pytest.raises(InvalidRequest, match="no such function"):
        await net.sender(5).simulate(Call("Settlement", "drain", ()))
    with pytest.raises(TransactionFailed, match="there is no such work"):
        await net.sender(5).simulate(Call("ContentRegistry", "ownerOf", (5,)))
    assert await net.chain.collectable(ZERO_ADDRESS) == 0


class Forgetful(Rpc):
    """An endpoint that serves the logs of all blocks but some, without a word."""

    hidden: frozenset[int] = frozenset()

    async def logs(self, *asked: Any) -> tuple[Log, ...]:
        return tuple(
            log for log in await super().logs(*asked) if log.block_number not in self.hidden
        )


async def test_who_has_a_grant_is_not_concluded_from_logs_that_lack_one(net: Testnet) -> None:
    """Protects a custodian's key: it is destroyed after the last grant that the logs show."""
    work = await net.register_work(net.sender(1))
    before = await net.rpc.block_number()
    await net.register_adapter(net.sender(4), [work])
    granted = await net.rpc.block_number() - 1  # the adapter's own block is the newest
    state = await net.chain.content(work)
    assert state is not None
    await net.mint(net.sender(5).address, 100)
    registry = net.deployment.content_registry
    await net.done(net.sender(5), "Token", "approve", registry, 100)
    await net.done(net.sender(5), "ContentRegistry", "acquireGrant", work, state.terms_hash)
    paid = await net.rpc.block_number()
    rpc = Forgetful(net.rpc.url)
    chain = Chain(rpc, net.deployment)
    both = tuple(sorted((net.sender(4).address, net.sender(5).address)))
    assert await chain.trainers_of(work) == both
    for hidden in ({granted}, set(range(before + 1)), {granted + 1}, set(range(paid + 1))):
        rpc.hidden = frozenset(hidden)
        with pytest.raises(ChainError, match="keeps the logs"):
            await chain.trainers_of(work)
    await rpc.close()
