"""A channel is closed at what was billed: signed-ahead units go back, and neither side can lose."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.integration.api.harness import (
    ADAPTER,
    DEPOSIT,
    NODE_KEY,
    PAYER_KEY,
    Buyer,
    Node,
    running_node,
)
from tests.integration.api.test_streams import spent_of
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_client import ask, chat
from tests.integration.buyer.test_killed_node import Kill

from viz.buyer.client import BuyerClient
from viz.buyer.control.commands import ChannelControl
from viz.buyer.wallet.wallet import KeyWallet
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import public_address, sign, sign_compact
from viz.domain.ports.transactions import Call
from viz.domain.typed_data import Close, RequestClose
from viz.domain.units import ZERO_HASH, AdapterId, Hash32, Units
from viz.domain.usage import UsageLine
from viz.errors import ChainUnreachable, ChannelClosing, NodeNotTrusted, NodeUnreachable
from viz.protocol import payment
from viz.protocol.credential import CloseRequest
from viz.protocol.messages import CloseAnswer
from viz.services.payments import channel_close
from viz.services.payments.channel_close import CLOSE_VALID_S
from viz.services.serving.paid_stream import ServingPolicy

PAYER = public_address(PAYER_KEY)


def billed(client: BuyerClient) -> Units:
    return sum(client.channel.billed.values())


def settled(node: Node, client: BuyerClient) -> Units:
    return node.chain.channels[client.signer, node.chain.address].settled_units


async def test_a_close_takes_what_was_billed(node: Node, buyer: BuyerClient) -> None:
    """Several adapters, each signed ahead of its bill: the wallet gets all of that back."""
    before = node.chain.balances[PAYER]
    await ask(buyer)
    await ask(buyer, chat("A long story, please.", model="fake", max_tokens=50))
    assert buyer.channel.total_units > billed(buyer) > 0
    answer = await buyer.close_channel(PAYER_KEY)
    assert answer.transaction_hash
    assert answer.close.settled_units == settled(node, buyer) == billed(buyer)
    assert node.chain.balances[PAYER] == before + DEPOSIT - billed(buyer)
    record = await node.store.channel(buyer.signer)
    assert record is not None and not record.unclaimed()
    for _ in range(2):
        assert (await node.parts.reconciliation.step()).mismatches == ()


async def test_nothing_asked_nothing_taken(node: Node, buyer: BuyerClient) -> None:
    """What was signed for an answer that the node never gave is not claimed at the close. The node
    pays no gas for a channel that earned nothing: its signature is handed out."""
    before = node.chain.balances[PAYER]
    with buyer.voucher_signer.open_request(ADAPTER, b"{}") as open_request:
        open_request.units = open_request.most_units = 500
        await buyer.voucher_signer.cover(ADAPTER, required_units=500, wanted_units=500)
    answer = await buyer.close_channel(PAYER_KEY)
    assert answer.close.settled_units == 0 and buyer.channel.total_units == 500
    assert settled(node, buyer) == 0 and not answer.transaction_hash
    close = answer.close
    args = close.signer, close.node, close.settled_units, close.deadline_s, answer.signature
    await node.chain.submit(Call("Settlement", "closeNow", args))
    assert node.chain.balances[PAYER] == before + DEPOSIT


async def test_what_a_claim_took_ahead_is_gone_and_no_more(node: Node, buyer: BuyerClient) -> None:
    """A claim between two answers took one adapter's units ahead: the close takes nothing else."""
    await ask(buyer)
    await node.parts.settlement.step(force=True)
    await buyer.sync()
    taken = settled(node, buyer)
    ahead = taken - billed(buyer)
    assert ahead > 0
    await ask(buyer, chat(model="fake"))
    answer = await buyer.close_channel(PAYER_KEY)
    assert answer.close.settled_units == settled(node, buyer) == billed(buyer) + ahead


async def test_a_claim_begun_meanwhile_is_followed(
    node: Node, buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base moves between the buyer's reading and its close: it signs again on the new one."""
    await ask(buyer)
    close, asked = buyer.api.close, 0

    async def late(credential: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            await node.parts.settlement.step(force=True)
        return await close(credential)

    monkeypatch.setattr(buyer.api, "close", late)
    answer = await buyer.close_channel(PAYER_KEY)
    assert asked == 2 and answer.close.settled_units == buyer.channel.total_units


async def test_two_closes_at_once_end_it_once(node: Node, buyer: BuyerClient) -> None:
    """Asked twice, the node claims once, and both are told the same total."""
    before = node.chain.balances[PAYER]
    await ask(buyer)
    answers = await asyncio.gather(
        *(buyer.close_channel(PAYER_KEY) for _ in range(2)), return_exceptions=True
    )
    totals = {each.close.settled_units for each in answers if not isinstance(each, BaseException)}
    assert totals == {billed(buyer)}
    assert node.chain.balances[PAYER] == before + DEPOSIT - billed(buyer)


async def test_a_node_that_knows_no_final_voucher_closes_at_what_was_signed(
    node: Node, buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what it could have claimed without consent, and the buyer's ledger follows."""
    await ask(buyer)
    close = buyer.api.close

    async def old(credential: CloseRequest) -> Any:
        return await close(replace(credential, final=None))

    monkeypatch.setattr(buyer.api, "close", old)
    answer = await buyer.close_channel(PAYER_KEY)
    assert answer.close.settled_units == buyer.channel.total_units > billed(buyer)
    await buyer.sync()
    assert buyer.channel.settled_units == answer.close.settled_units


async def test_a_channel_opened_again_uses_what_was_signed_ahead_first(
    node: Node, buyer: BuyerClient
) -> None:
    """Before the signed Close expires a deposit is refused, unsigned or unsent; then all works."""
    await ask(buyer)
    signed = buyer.channel.total_units
    await buyer.close_channel(PAYER_KEY)
    before = node.chain.balances[PAYER]
    with pytest.raises(ChannelClosing) as refused:
        await buyer.open_channel(PAYER_KEY, DEPOSIT)
    until_s = int(refused.value.extensions["until"])
    assert node.clock.now < until_s <= node.clock.now + CLOSE_VALID_S
    assert node.chain.balances[PAYER] == before, "nothing was deposited that could not be used"
    node.clock.now = until_s + 1
    await buyer.open_channel(PAYER_KEY, DEPOSIT)
    answer = await ask(buyer, chat("a", max_tokens=2))
    assert answer.receipt is not None
    assert buyer.channel.total_units <= max(signed, billed(buyer) + 300)
    closed = await buyer.close_channel(PAYER_KEY)
    assert closed.close.settled_units == settled(node, buyer) == billed(buyer)


@pytest.mark.parametrize("point", ["close", "freeze", "sign-close"])
async def test_a_node_killed_while_it_closes_claims_what_is_owed(
    tmp_path: Path, point: str
) -> None:
    """Killed between taking the final voucher and the claim, or after it: asked again, it is done,
    and what was signed ahead is never claimed."""
    chain, found = FakeChain(NODE_KEY), FakeChain(NODE_KEY)
    chain.balances[PAYER] = 10**9
    live, left = tmp_path / "live", tmp_path / "left"
    live.mkdir()
    copying = Kill(live, left)

    def kill(moment: str) -> None:
        copying(moment)
        if moment == f"{point}:after" and not copying.done:
            copying.done = True
            found.channels |= chain.channels
            found.balances |= chain.balances

    async with running_node(live, chain=chain) as node, buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        await ask(client)
        await ask(client)
        node.store._db.writer._hook = kill
        close = client.api.close

        async def cut_off(credential: Any) -> Any:
            await close(credential)
            raise NodeUnreachable("the node was killed")

        client.api.close = cut_off  # type: ignore[method-assign]
        with pytest.raises(NodeUnreachable):
            await client.close_channel(PAYER_KEY)
        assert copying.done
    async with running_node(left, chain=found) as node, buying(node, tmp_path / "b") as client:
        await node.parts.settlement.step(force=True)
        assert settled(node, client) == billed(client)
        answer = await client.close_channel(PAYER_KEY)
        assert answer.close.settled_units == billed(client) < client.channel.total_units
        assert found.balances[PAYER] == 10**9 - billed(client)


# what a buyer might try


async def close_with(buyer: Buyer, final: SignedVoucher | None) -> tuple[int, Any]:
    """Ask for a close with any final voucher."""
    request = RequestClose(buyer.signer, buyer.node.chain.address, buyer.node.clock.now + 600)
    signature = sign(PAYER_KEY, buyer.domain.digest(request))
    here = DEPLOYMENT.chain_id, DEPLOYMENT.settlement
    return await buyer.pay(payment.CLOSE_PATH, CloseRequest(*here, request, signature, final))


def signed(buyer: Buyer, lines: dict[AdapterId, Units], **changes: Any) -> SignedVoucher:
    """Return a voucher of these lines."""
    row = SignedVoucher(
        0, buyer.channel.head, tuple(UsageLine(*each) for each in sorted(lines.items())), b""
    )
    row = replace(row, **changes)
    digest = buyer.domain.digest(row.voucher(buyer.node.chain.address))
    return replace(row, signature=sign_compact(buyer.key, digest))


async def test_no_final_voucher_takes_back_what_was_delivered(tmp_path: Path) -> None:
    """A line below what was spent, none at all, another's signature, a stale base, an adapter that
    nobody asked for: each is refused, the best voucher stays, and the channel sells on."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        await buyer.ask()
        await buyer.ask(buyer.chat(model="fake"))
        best = (await buyer.view()).best
        spent = {AdapterId(k): units for k, units in (await spent_of(node, buyer)).items()}
        thief = Buyer(node, key=b"\x66" * 32)
        thief.channel = buyer.channel
        one_less = {**spent, ADAPTER: spent[ADAPTER] - 1}
        for final, status in (
            (signed(buyer, one_less), 402),
            (signed(buyer, {ADAPTER: spent[ADAPTER]}), 402),
            (SignedVoucher(0, ZERO_HASH, (), b""), 402),
            (signed(thief, spent), 401),
            (signed(buyer, spent, base_units=5), 409),
            (signed(buyer, spent, receipts_head=Hash32(b"\x01" * 32)), 409),
            (signed(buyer, {**spent, AdapterId(9): 1}), 404),
        ):
            found, problem = await close_with(buyer, final)
            assert found == status, problem
            assert (await buyer.view()).best == best
        assert (await buyer.ask()).receipt is not None
        spent = {AdapterId(k): units for k, units in (await spent_of(node, buyer)).items()}
        status, answer = await close_with(buyer, signed(buyer, spent))
        assert status == 200, answer
        state = node.chain.channels[buyer.signer, node.chain.address]
        assert (state.settled_units, state.deposit_units) == (sum(spent.values()), 0)


@pytest.mark.parametrize("wait_s", [0.05, 30.0])
async def test_a_close_does_not_cut_an_answer_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_s: float
) -> None:
    """A final voucher waits for the answers under way; while one lasts it is refused, and nothing
    has changed: the answer goes on, is billed, and then the close is at its bill."""
    monkeypatch.setattr(channel_close, "CLOSE_WAIT_S", wait_s)
    policy = ServingPolicy(step_tokens=8, voucher_grace_s=60)
    async with running_node(tmp_path, policy=policy) as node:
        buyer = await Buyer(node).ready()
        need = (await buyer.need_of(buyer.chat())).need
        assert need is not None
        await buyer.satisfy(need)
        url, headers = node.url + payment.CHAT_PATH, buyer.bearer()
        async with node.http.post(url, json=buyer.chat(), headers=headers) as response:
            while b"payment-need-voucher" not in await response.content.readline():
                pass
            asked = payment.NeedVoucher.from_json(
                json.loads((await response.content.readline()).removeprefix(b"data: "))
            )
            final = signed(buyer, {ADAPTER: need.required_units})
            closing = asyncio.create_task(close_with(buyer, final))
            if wait_s < 1:
                status, problem = await closing
                assert (status, problem["code"]) == (409, "channel-busy")
            for _ in range(9):
                if (await buyer.satisfy(asked, extra=5_000))[0] == 200:
                    break
            assert b"payment-receipt" in await response.content.read()
        status, problem = await closing if wait_s > 1 else (402, {})
        assert status == 402, "the bill is above that voucher by now"
        spent = {AdapterId(k): units for k, units in (await spent_of(node, buyer)).items()}
        rows = await node.store.receipts(buyer.signer)
        final = signed(buyer, spent, receipts_head=rows[-1].head)
        assert (await close_with(buyer, final))[0] == 200
        state = node.chain.channels[buyer.signer, node.chain.address]
        assert state.settled_units == sum(spent.values()) > need.required_units


async def test_a_close_does_not_forgive_credit(tmp_path: Path) -> None:
    """What was delivered on credit is paid before the node gives the deposit back."""
    async with running_node(tmp_path, credit_window_units=1_000) as node:
        buyer = await Buyer(node).ready()
        assert (await buyer.ask(buyer.chat(max_tokens=8), pays=False)).receipt is not None
        for final in (None, SignedVoucher(0, ZERO_HASH, (), b"")):
            status, problem = await close_with(buyer, final)
            assert (status, problem["code"]) == (402, "payment-required")
        spent = {AdapterId(k): units for k, units in (await spent_of(node, buyer)).items()}
        status, problem = await close_with(buyer, signed(buyer, spent))
        assert status == 200, problem
        state = node.chain.channels[buyer.signer, node.chain.address]
        assert state.settled_units == sum(spent.values()) > 0


@pytest.mark.parametrize(
    ("total", "life_s", "transaction", "words"),
    [
        (0, 60, b"\1" * 32, "less than what was claimed"),
        (7, 60, b"\1" * 32, "not in this ledger"),
        (None, -1, b"\1" * 32, "is over"),
        (None, 60, b"\1", "can be none"),
    ],
)
async def test_a_close_that_is_invented_is_not_taken(
    node: Node,
    buyer: BuyerClient,
    monkeypatch: pytest.MonkeyPatch,
    total: int | None,
    life_s: int,
    transaction: bytes,
    words: str,
) -> None:
    """A node that submits nothing may sign anything: its total, deadline and hash are checked."""
    await ask(buyer)
    await node.parts.settlement.step(force=True)
    await ask(buyer)

    async def invented(wanted: Any) -> CloseAnswer:
        at = total if total is not None else buyer.channel.total_units
        close = Close(buyer.signer, node.chain.address, at, node.clock.now + life_s)
        return CloseAnswer(close, sign(NODE_KEY, node.chain.domain.digest(close)), transaction)

    monkeypatch.setattr(buyer.api, "close", invented)
    with pytest.raises(NodeNotTrusted, match=words):
        await buyer.close_channel(PAYER_KEY)


@pytest.mark.parametrize("submitted", [True, False])
async def test_closed_is_what_the_buyers_chain_shows(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitted: bool
) -> None:
    """With a chain the command says whether it shows the close; without one, whose word it is."""
    monkeypatch.setattr("viz.buyer.channels.closing.CLOSED_WAITS_S", (0.0,))
    for chain, seen in ((node.chain, submitted), (None, None)):
        async with buying(node, tmp_path / str(seen), chain=chain) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            await ask(client)
            if not submitted:
                close = Close(
                    client.signer,
                    node.chain.address,
                    client.channel.total_units,
                    node.clock.now + 60,
                )
                signature = sign(NODE_KEY, node.chain.domain.digest(close))
                told = CloseAnswer(close, signature, b"\1" * 32)

                async def close_of(wanted: Any, told: CloseAnswer = told) -> CloseAnswer:
                    return told

                monkeypatch.setattr(client.api, "close", close_of)
            closed = await ChannelControl(client).close(KeyWallet(PAYER_KEY))
            assert closed["seenClosed"] is seen


async def test_after_a_signed_close_no_deposit_is_signed(node: Node, buyer: BuyerClient) -> None:
    """The node refused it after the signature, which barred other deposits for an hour."""
    await buyer.open_channel(PAYER_KEY, DEPOSIT)
    await buyer.close_channel(PAYER_KEY)
    with pytest.raises(ChannelClosing, match="Nothing was signed: deposit after that") as refused:
        await buyer.open_channel(PAYER_KEY, DEPOSIT)
    assert buyer._ledger.kept_deposit() is None
    said = await ChannelControl(buyer).show()
    assert said["closedUntil"] == refused.value.extensions["until"] > node.clock.now
    node.clock.now = said["closedUntil"] + 1
    assert (await buyer.open_channel(PAYER_KEY, DEPOSIT + 1)).deposit_units


async def test_a_chain_that_fails_after_the_close_hides_nothing_of_it(
    node: Node, buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel was closed, and the command said only that the chain cannot be reached."""

    async def fail() -> bool:
        raise ChainUnreachable("no answer in 20 s")

    await buyer.open_channel(PAYER_KEY, DEPOSIT)
    await ask(buyer)
    monkeypatch.setattr(buyer, "sees_closed", fail)
    closed = await ChannelControl(buyer).close(KeyWallet(PAYER_KEY))
    assert closed["seenClosed"] is None and closed["notSeen"] == "no answer in 20 s"
    assert int(closed["settled"]) == int(closed["billed"]) > 0


async def test_who_names_no_model_is_not_led_by_the_order_of_the_list(
    node: Node, buyer: BuyerClient
) -> None:
    """The only adapter, then the one that was paid for; with two and no memory the base model."""
    assert buyer.usual_offer().adapter_id == ADAPTER
    (base, known) = buyer.info.adapters
    dear = replace(known, adapter_id=AdapterId(8), model="viz-adapter-8")
    buyer.node.info = replace(buyer.info, adapters=(base, known, dear))
    assert buyer.usual_offer() == base
    await ask(buyer)
    buyer.node.info = replace(buyer.info, adapters=(base, known, dear))
    assert buyer.usual_offer() == known
