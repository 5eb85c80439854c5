"""What the node sends for strangers: no more gas than allowed, and nothing of anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, TOKEN_DOMAIN, FakeChain
from tests.integration.api.harness import (
    ADAPTER,
    NODE_KEY,
    OPERATOR_TOKEN,
    PAYER_KEY,
    Buyer,
    Node,
    running_node,
)

from viz.domain.eip712 import public_address, sign
from viz.domain.ports.transactions import Call, Transaction
from viz.domain.pricing import Price
from viz.domain.typed_data import (
    TOP_UP_KIND,
    ReceiveWithAuthorization,
    RequestClose,
    authorization_nonce,
)
from viz.domain.units import Hash32
from viz.protocol import payment
from viz.protocol.credential import CloseRequest, credential_to_header
from viz.services.payments.relay_budget import COST_GAS, HOUR_S, RelayPolicy

OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    limits = RelayPolicy(per_hour=100, per_payer_per_hour=3)
    async with running_node(tmp_path, relays=limits) as running:
        yield running


def close_of(buyer: Buyer) -> CloseRequest:
    deployment = buyer.node.chain.deployment
    wanted = RequestClose(buyer.signer, buyer.node.chain.address, buyer.node.clock.now + 600)
    signature = sign(PAYER_KEY, buyer.domain.digest(wanted))
    return CloseRequest(deployment.chain_id, deployment.settlement, wanted, signature)


async def test_a_close_claims_its_own_channel_alone(node: Node) -> None:
    """A stranger's close must not make the node pay for claiming everybody's small vouchers."""
    leaving, staying = Buyer(node), Buyer(node, key=b"\x55" * 32)
    for buyer in (leaving, staying):
        await buyer.ready()
        assert (await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 50, 0)))[0] == 200
    await leaving.close()
    kept = await node.store.channel(staying.signer)
    assert kept is not None and kept.signature and kept.base_units == 0
    assert await node.store.frozen() == []
    await staying.observe()
    assert staying.channel.settled_units == 0


async def test_an_empty_channel_is_not_closed_again(node: Node) -> None:
    """Asking again to close what holds nothing costs the node no gas."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    await buyer.close()
    sent = len(node.chain.sent)
    status, problem = await buyer.pay(payment.CLOSE_PATH, close_of(buyer))
    assert (status, problem["code"]) == (400, "invalid-request")
    assert "nothing is left" in problem["detail"] and len(node.chain.sent) == sent


async def test_a_payer_is_relayed_so_many_times_an_hour(node: Node) -> None:
    """Deposits by relay end at the operator's bound; a close then is the payer's to send."""
    first = await Buyer(node).ready()
    await first.ask()
    assert (await first.close()).transaction_hash
    second = Buyer(node, key=b"\x55" * 32)
    await second.ready()
    await second.ask()
    sent = len(node.chain.sent)
    header = credential_to_header(second.deposit(5_000, opening=False))
    status, problem, headers = await second.call(
        "POST", payment.CHANNELS_PATH, headers={"Authorization": header}
    )
    assert (status, problem["code"]) == (429, "relay-busy")
    wait_s = int(headers["Retry-After"])
    assert wait_s == problem["retryAfter"] > 60 and f"in {wait_s} s" in problem["detail"]
    answer = await second.close()
    assert not answer.transaction_hash
    assert [call.function for call in node.chain.sent[sent:]] == ["claim"]


async def test_capital_that_goes_round_costs_the_node_no_closes(node: Node) -> None:
    """Opened and closed without a sale: the payer gets the signature, and sends it itself."""
    buyer = await Buyer(node).ready()
    answer = await buyer.close()
    assert not answer.transaction_hash
    assert [call.function for call in node.chain.sent] == ["openWithAuthorization"]
    close = answer.close
    args = (close.signer, close.node, close.settled_units, close.deadline_s, answer.signature)
    await node.chain.submit(Call("Settlement", "closeNow", args))
    assert node.chain.channels[buyer.signer, node.chain.address].deposit_units == 0


async def test_a_repeated_close_asks_the_chain_no_more_for_others_rows(node: Node) -> None:
    """What a stranger repeats costs the same however many claims of others are under way."""
    buyer = await Buyer(node).ready()
    await buyer.close()

    async def questions() -> int:
        before = node.chain.reads
        await buyer.close()
        return node.chain.reads - before

    alone = await questions()
    for number in range(20):
        other = Buyer(node, key=bytes([0x61 + number]) * 32)
        other.payer = buyer.payer
        node.clock.now += HOUR_S // 2
        await other.open()
        assert (await other.pay(payment.VOUCHERS_PATH, other.voucher(ADAPTER, 500, 0)))[0] == 200
        assert await node.store.freeze(other.signer, now_s=node.clock.now) is not None
    assert await questions() <= alone


async def test_a_refused_deposit_uses_up_nothing(node: Node) -> None:
    """Signed deposits without coins behind them do not shut others out."""
    node.chain.balances[Buyer(node).payer] = 0
    for number in range(5):
        buyer = Buyer(node, key=bytes([0x61 + number]) * 32)
        status, problem = await buyer.pay(payment.CHANNELS_PATH, buyer.deposit())
        assert (status, problem["code"]) == (409, "transaction-failed")
    node.chain.balances[buyer.payer] = 10**9
    await buyer.open()


async def test_nothing_is_sold_where_ledger_and_chain_disagree(node: Node) -> None:
    """A channel whose claims cannot be good any more costs the node nothing further."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    end = buyer.channel.total_units
    row = await node.store.freeze(buyer.signer, now_s=1)
    assert row is not None
    await node.store.finish(row.claim_id, "dropped", "BAD_SIGNATURE")
    for _ in range(2):
        await node.parts.reconciliation.step()
    refused = await buyer.ask(pays=False)
    assert (refused.status, refused.body["code"]) == (500, "books-mismatch")
    _, status, _ = await buyer.call("GET", "/operator/v1/status", headers=OPERATOR)
    (shown,) = status["books"]["mismatches"]
    assert (shown["signer"], shown["what"]) == (buyer.signer, "settled")
    assert (shown["books"], shown["chain"]) == (str(end), "0")
    node.chain.fees_raised = 2
    async with node.http.get(node.url + "/metrics", headers=OPERATOR) as response:
        shown = await response.text()
    assert "viz_books_mismatches 1.0" in shown and "viz_fees_raised 2.0" in shown
    key = buyer.signer, node.chain.address
    state = node.chain.channels[key]
    node.chain.channels[key] = replace(
        state, settled_units=end, deposit_units=state.deposit_units - end
    )
    await node.parts.reconciliation.step()
    node.clock.now += 6
    assert (await buyer.ask()).status == 200, "what agrees again is sold on again"


async def test_a_strangers_deposits_keep_nobody_from_a_top_up(tmp_path: Path) -> None:
    """One for the buyer's signer, of a payer without money, is under way: the buyer's own goes on,
    and the stranger's is none of a channel that pays."""

    class Held(FakeChain):
        gate = asyncio.Event()
        held = asyncio.Event()

        async def submit(self, call: Call, **options: Any) -> Transaction:
            if call.function == "topUpWithAuthorization" and call.args[0] != payer:
                self.held.set()
                await self.gate.wait()
            return await super().submit(call, **options)

    payer = public_address(PAYER_KEY)
    chain = Held(NODE_KEY)
    async with running_node(tmp_path, chain=chain) as node:
        buyer = await Buyer(node).ready(100_000)
        evil = b"\x66" * 32
        deposit = buyer.deposit(5_000, opening=False)
        nonce = authorization_nonce(TOP_UP_KIND, buyer.signer, chain.address, deposit.salt)
        said = ReceiveWithAuthorization(
            public_address(evil), DEPLOYMENT.settlement, 5_000, 0, deposit.valid_before_s, nonce
        )
        forged = replace(
            deposit,
            payer=public_address(evil),
            authorization=sign(evil, TOKEN_DOMAIN.digest(said)),
        )
        first = asyncio.create_task(buyer.pay(payment.CHANNELS_PATH, forged))
        await asyncio.wait_for(chain.held.wait(), 10)
        own = buyer.deposit(5_000, opening=False)
        status, body = await buyer.pay(payment.CHANNELS_PATH, own)
        assert status == 200, body
        again = replace(forged, salt=Hash32(b"\7" * 32))
        assert (await buyer.pay(payment.CHANNELS_PATH, again))[0] != 200
        chain.gate.set()
        assert (await first)[0] != 200


async def test_a_deposit_beside_one_under_way_is_told_to_wait(tmp_path: Path) -> None:
    """A client that repeats a deposit after a lost answer has nothing to correct: it waits."""

    class Held(FakeChain):
        gate = asyncio.Event()
        held = asyncio.Event()

        async def submit(self, call: Call, **options: Any) -> Transaction:
            self.held.set()
            await self.gate.wait()
            return await super().submit(call, **options)

    chain = Held(NODE_KEY)
    async with running_node(tmp_path, chain=chain) as node:
        buyer = Buyer(node)
        deposit = buyer.deposit()
        first = asyncio.create_task(buyer.pay(payment.CHANNELS_PATH, deposit))
        await asyncio.wait_for(chain.held.wait(), 10)
        status, problem = await buyer.pay(payment.CHANNELS_PATH, deposit)
        assert (status, problem["code"]) == (429, "relay-busy")
        assert problem["retryAfter"] > 1 and "under way" in problem["detail"]
        chain.gate.set()
        assert (await first)[0] == 200


async def test_what_is_kept_for_channels_that_pay_is_earned_each_time(tmp_path: Path) -> None:
    """One answer that was paid for lets one top-up pass the strangers' bound, and not the next.

    What was only promised earned nothing: a close at what was billed gives it back."""
    relays = RelayPolicy(per_hour=8, reserve_bps=8_750)
    price = Price(2_000_000_000, 6_000_000_000)
    async with running_node(tmp_path, relays=relays, price=price) as node:
        buyer = await Buyer(node).ready()
        assert (await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 50_000, 0)))[0] == 200
        assert await topped_up(buyer) == 429
        for _ in range(2):
            answer = await buyer.ask({**buyer.chat(), "model": "fake"})
            assert answer.receipt is not None and answer.receipt.receipt.amount_units > 1_000
            assert await topped_up(buyer) == 200
            assert await topped_up(buyer) == 429


async def test_a_key_with_code_counts_as_a_contract_wallet(tmp_path: Path) -> None:
    """Its code can be good in the simulation and burn all gas in the block, whoever signed."""
    async with running_node(tmp_path, relays=RelayPolicy(gas_per_hour=2_000_000)) as node:
        node.chain.with_code.add(public_address(PAYER_KEY))
        buyers = [Buyer(node, key=bytes([0x61 + number]) * 32) for number in range(2)]
        await buyers[0].open()
        status, problem = await buyers[1].pay(payment.CHANNELS_PATH, buyers[1].deposit())
        assert (status, problem["code"]) == (429, "relay-busy")
        assert "contract wallets" in problem["detail"]
        node.chain.with_code.clear()
        await buyers[1].open()


async def topped_up(buyer: Buyer) -> int:
    deposit = buyer.deposit(5_000, opening=False)
    return (await buyer.pay(payment.CHANNELS_PATH, deposit))[0]


async def test_a_deposit_is_worth_its_gas(tmp_path: Path) -> None:
    """The least deposit follows the price of gas; what is told leaves room for a rise."""

    class Dear(FakeChain):
        async def fee_wei(self) -> int:
            return 10**9

    opening, top_up = (COST_GAS[f"{each}WithAuthorization"] for each in ("open", "topUp"))
    relays = RelayPolicy(coin_units=10**9)  # a unit of gas is a unit of the token
    async with running_node(tmp_path, chain=Dear(NODE_KEY), relays=relays) as node:
        async with node.http.get(node.url + payment.NODE_PATH) as response:
            info = await response.json()
        assert info["minimumDeposit"] == info["suggestedDeposit"] == str(2 * opening)
        buyer = Buyer(node)
        status, problem = await buyer.pay(payment.CHANNELS_PATH, buyer.deposit(opening - 1))
        assert (status, problem["code"]) == (400, "invalid-request")
        assert f"deposit {2 * opening} at least" in problem["detail"] and not node.chain.sent
        await buyer.open(opening)
        for amount, answer in ((top_up - 1, 400), (top_up, 200)):
            deposit = buyer.deposit(amount, opening=False)
            assert (await buyer.pay(payment.CHANNELS_PATH, deposit))[0] == answer


@pytest.mark.parametrize("read", [1, 3])
@pytest.mark.parametrize("odd_s", [1_800_000_000_000, 2**62])
async def test_no_close_is_signed_for_a_time_far_ahead_of_the_own_clock(
    tmp_path: Path, read: int, odd_s: int
) -> None:
    """One odd answer at a close would make a Close that is valid for ever, and end all sales."""

    class Odd(FakeChain):
        left = -1

        async def chain_time(self) -> int:
            self.left -= 1
            return odd_s if self.left == 0 else await super().chain_time()

    chain = Odd(NODE_KEY)
    async with running_node(tmp_path, chain=chain, development=False) as node:
        buyer = await Buyer(node).ready()
        await buyer.ask()
        wanted = RequestClose(buyer.signer, chain.address, 2**63 - 1)
        signature = sign(PAYER_KEY, buyer.domain.digest(wanted))
        close = CloseRequest(DEPLOYMENT.chain_id, DEPLOYMENT.settlement, wanted, signature)
        chain.left = read
        status, body = await buyer.pay(payment.CLOSE_PATH, close)
        assert (status, body["code"]) == (503, "chain-unreachable"), body
        chain.left = -1
        status, body = await buyer.pay(payment.CLOSE_PATH, close)
        assert status == 200, body
        node.clock.now += HOUR_S
        assert (await buyer.pay(payment.CHANNELS_PATH, buyer.deposit()))[0] == 200
