"""From a license to everybody's money, on a real chain with the real ledger; and kills between."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from tests.integration.chain.testnet import Testnet, address
from tests.integration.services.claiming import (
    NODE,
    SystemClock,
    accept,
    open_store,
    settlement_of,
)

from viz.chain.deployment import save_deployment
from viz.chain.keys import development_account
from viz.domain.ports.transactions import Call, Outcome
from viz.domain.typed_data import channel_id
from viz.domain.units import AdapterId
from viz.services.payments.channel_events import ChannelEvents
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService
from viz.services.settlement.payouts import Payouts


async def balance(net: Testnet) -> int:
    return await net.chain.token_balance(net.deployment.settlement)


async def test_everyone_is_paid_and_the_sums_agree_to_the_unit(
    net: Testnet, tmp_path: Path
) -> None:
    """License, adapter, channels, a batch of claims, distribution, collection: nothing lost."""
    creators, trainer, node = [net.sender(2), net.sender(3)], net.sender(4), net.sender(NODE)
    works = [await net.register_work(creator) for creator in creators]
    adapter = AdapterId(await net.register_adapter(trainer, works))
    await net.done(trainer, "AdapterRegistry", "setServing", adapter, node.address, True)
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    signers = [development_account(index) for index in (6, 7)]
    for signer, used in zip(signers, (1_001, 2_003), strict=True):
        await net.open_channel(net.sender(1), signer, node.address, 5_000)
        await accept(store, net, signer, {AdapterId(0): 10, adapter: used})
    before = [await net.chain.token_balance(creator.address) for creator in creators]

    settlement = settlement_of(net, store, node)
    report = await settlement.step(force=True)

    assert (report.frozen, report.settled, report.waiting) == (2, 2, 0)
    assert report.claimed_units == 3_024
    assert len(report.transactions) == 1
    payouts = Payouts(net.chain, node)
    await payouts.distribute(adapter)
    royalties = 3_004 * 3_000 // 10_000
    paid = [
        await net.chain.token_balance(creator.address) - held
        for creator, held in zip(creators, before, strict=True)
    ]
    assert paid == [royalties // 2, royalties // 2]
    assert await net.chain.collectable(trainer.address) == 3_004 * 1_000 // 10_000
    assert await net.chain.collectable(node.address) == 3_004 * 6_000 // 10_000 + 20
    for account in (trainer.address, node.address):
        await payouts.collect(account)
    left = 10_000 - 3_024
    dust = 3_024 - sum(paid) - 300 - 1_822
    assert 0 <= dust <= 2 + len(works)
    assert await balance(net) == left + dust
    await store.close()


async def test_a_voucher_is_claimed_for_value_age_or_a_leaving_payer(
    net: Testnet, tmp_path: Path
) -> None:
    """Small and young vouchers wait; each of the three reasons claims."""
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    node = net.sender(NODE)
    clock = SystemClock()
    policy = ClaimPolicy(claim_at_units=100, claim_age_s=3_600)
    settlement = ClaimService(net.chain, node, store, clock, policy, events=ChannelEvents())
    value, age, leaving = (development_account(index) for index in (6, 7, 8))
    for signer in (value, age, leaving):
        await net.open_channel(net.sender(1), signer, node.address, 1_000)

    await accept(store, net, age, {AdapterId(0): 1})
    assert (await settlement.step()).frozen == 0
    clock.ahead_s = 3_600
    await accept(store, net, age, {AdapterId(0): 2}, at_s=clock.now_s())
    assert (await settlement.step()).settled == 1
    clock.ahead_s = 0
    await accept(store, net, value, {AdapterId(0): 100})
    assert (await settlement.step()).settled == 1
    await accept(store, net, leaving, {AdapterId(0): 2})
    assert (await settlement.step()).settled == 0
    await settlement.channel_closing(channel_id(address(leaving), node.address))
    assert (await settlement.step()).settled == 1
    await store.close()


async def test_a_restarted_node_still_knows_who_is_leaving(net: Testnet, tmp_path: Path) -> None:
    """A close request seen before the restart is claimed after it, without being told again."""
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    node, payer, signer = net.sender(NODE), net.sender(1), development_account(6)
    await net.open_channel(payer, signer, node.address, 1_000)
    await accept(store, net, signer, {AdapterId(0): 5})
    await net.done(payer, "Settlement", "requestClose", address(signer), node.address)
    assert (await settlement_of(net, store, node).step()).settled == 1
    await store.close()


async def test_gas_is_not_paid_for_less_than_it_costs(net: Testnet, tmp_path: Path) -> None:
    """A claim that costs more than it brings is left alone, however old."""
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    node = net.sender(NODE)
    signer = development_account(6)
    await net.open_channel(net.sender(1), signer, node.address, 10_000)
    coin = 10**15 // await net.chain.fee_wei()  # a million gas costs about 1,000 units
    policy = ClaimPolicy(claim_at_units=1, claim_age_s=0, coin_units=coin)
    clock, fee_wei = SystemClock(), net.chain.fee_wei
    settlement = ClaimService(
        net.chain, node, store, clock, policy, events=ChannelEvents(), fee_wei=fee_wei
    )
    await accept(store, net, signer, {AdapterId(0): 50})
    assert (await settlement.step()).frozen == 0
    await accept(store, net, signer, {AdapterId(0): 5_000})
    assert (await settlement.step()).settled == 1
    await store.close()


async def test_no_second_claim_is_sent_while_one_is_open(net: Testnet, tmp_path: Path) -> None:
    """A pending claim is waited for; another pending transaction of the node holds up nothing."""
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    node = net.sender(NODE, store, wait_s=0.2)
    signer = development_account(6)
    await net.open_channel(net.sender(1), signer, node.address, 1_000)
    await accept(store, net, signer, {AdapterId(0): 10})
    settlement = settlement_of(net, store, node)
    await net.anvil.automine(False)
    await node.submit(Call("Token", "mint", (node.address, 1)))
    sent = (await settlement.step(force=True)).transactions
    assert [each.outcome for each in sent] == [Outcome.PENDING]
    assert (await settlement.step(force=True)).transactions == ()
    await net.anvil.mine()
    report = await settlement.step()
    assert (report.settled, report.transactions) == (1, ())
    assert await net.rpc.mined_count(node.address) == 2
    await store.close()


async def test_a_bad_row_is_kept_back_and_harms_nobody(net: Testnet, tmp_path: Path) -> None:
    """A row that cannot be paid waits, so does an invalid one, and the good one is claimed."""
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    node = net.sender(NODE)
    good, poor, forged = (development_account(index) for index in (6, 7, 8))
    for signer in (good, poor, forged):
        await net.open_channel(net.sender(1), signer, node.address, 1_000)
    await accept(store, net, good, {AdapterId(0): 10})
    await accept(store, net, poor, {AdapterId(0): 1_001})
    await accept(store, net, forged, {AdapterId(9): 10})
    settlement = settlement_of(net, store, node)
    report = await settlement.step(force=True)
    assert (report.settled, report.dropped, report.waiting) == (1, 0, 2)
    assert report.claimed_units == 10
    payer = net.sender(1)
    await net.mint(payer.address, 1)
    await net.done(payer, "Token", "approve", net.deployment.settlement, 1)
    await net.done(payer, "Settlement", "topUp", address(poor), node.address, payer.address, 1)
    assert (await settlement.step()).settled == 1
    await store.close()


async def test_a_claim_that_a_reorganisation_undid_is_made_again(
    net: Testnet, tmp_path: Path
) -> None:
    """Below the confirmation depth nothing is settled, so a vanished claim is simply repeated."""
    store = await open_store(tmp_path / "ledger.db", net.deployment)
    net.chain._confirmations = 2
    node = net.sender(NODE, store)
    signer = development_account(6)
    await net.open_channel(net.sender(1), signer, node.address, 1_000)
    await accept(store, net, signer, {AdapterId(0): 10})
    settlement = settlement_of(net, store, node)
    before = await net.anvil.snapshot()
    report = await settlement.step(force=True)
    assert (report.claimed_units, report.settled, report.waiting) == (10, 0, 1)
    await net.anvil.revert(before)
    await net.anvil.mine()
    report = await settlement.step()
    assert (report.claimed_units, report.settled, report.waiting) == (10, 0, 1)
    await net.anvil.mine(2)
    report = await settlement.step()
    assert (report.claimed_units, report.settled, report.waiting) == (0, 1, 0)
    await store.close()


@pytest.mark.parametrize("moment", ["frozen", "recorded", "broadcast"])
async def test_a_node_killed_while_claiming_settles_exactly_once(
    net: Testnet, tmp_path: Path, moment: str
) -> None:
    """SIGKILL after a commit and before the next step: the restart claims once, never twice."""
    ledger = tmp_path / "ledger.db"
    store = await open_store(ledger, net.deployment)
    node = net.sender(NODE)
    signer = development_account(6)
    await net.open_channel(net.sender(1), signer, node.address, 1_000)
    await accept(store, net, signer, {AdapterId(0): 123})
    await store.close()
    save_deployment(tmp_path / "deployment.json", net.deployment)

    victim = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.services.claiming",
        moment,
        net.anvil.url,
        str(tmp_path),
        cwd=Path(__file__).parents[4],
        env={"PYTHONPATH": "node:."},
    )
    assert await asyncio.wait_for(victim.wait(), 60) == -signal.SIGKILL

    store = await open_store(ledger, net.deployment)
    assert len(await store.frozen()) == 1
    settlement = settlement_of(net, store, net.sender(NODE, store))
    await settlement.step()
    assert await store.frozen() == []
    channel = await net.chain.channel(address(signer), node.address)
    assert channel is not None
    assert (channel.settled_units, channel.deposit_units) == (123, 877)
    assert await net.rpc.mined_count(node.address) == 1
    assert (await settlement.step(force=True)).frozen == 0
    await net.done(node, "Settlement", "collect", node.address)
    assert await net.chain.token_balance(node.address) == 123
    await store.close()
