"""The buyer's client at a node: it pays as it receives, and never more than it agreed to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api import harness
from tests.integration.api.harness import (
    ADAPTER,
    DEPOSIT,
    PAYER_KEY,
    PRICE,
    Node,
    running_node,
)
from tests.integration.buyer.conftest import buying

from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.client import BuyerClient
from viz.buyer.terms.checks import Limits
from viz.client.node_client import NodeClient
from viz.domain.eip712 import public_address
from viz.domain.node_channel import PresentedVoucher
from viz.domain.pricing import Price
from viz.domain.units import BASE_MODEL, ZERO_HASH, AdapterId, Address
from viz.domain.usage import UsageLine
from viz.errors import (
    ChannelUnknown,
    ConfigError,
    DepositExceeded,
    NodeNotTrusted,
    NodeUnreachable,
    PaymentRequired,
    PriceAboveCap,
    UnknownModel,
    VizError,
)
from viz.protocol.messages import ChannelView
from viz.protocol.payment import Challenge, NeedVoucher
from viz.services.serving.paid_stream import ServingPolicy

MODEL = f"viz-adapter-{ADAPTER}"


def chat(text: str = "When is high tide?", **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 24}
    return {**body, "temperature": 0, **more}


async def ask(client: BuyerClient, body: dict[str, Any] | None = None) -> PaidAnswer:
    async with client.ask(body or chat()) as answer:
        async for _ in answer:
            pass
    return answer


async def test_an_answer_is_paid_as_it_arrives(node: Node, buyer: BuyerClient) -> None:
    """What was spent is what the receipt bills; what was signed covers it and little more."""
    answer = await ask(buyer)
    assert answer.receipt is not None
    receipt = answer.receipt.receipt
    assert receipt.completion_tokens == node.engine.count_tokens(answer.text) > 8
    assert answer.cost_units == PRICE.amount_units(receipt.prompt_tokens, receipt.completion_tokens)
    assert buyer.channel.billed_units(ADAPTER) == answer.cost_units
    ahead = PRICE.amount_units(0, buyer.limits.ahead_tokens)
    assert answer.cost_units <= buyer.channel.signed_units(ADAPTER) <= answer.cost_units + ahead + 1
    assert set(buyer.channel.vector) == {ADAPTER}


async def test_exact_recounting_agrees_with_the_node(node: Node, tmp_path: Path) -> None:
    """A buyer with the tokenizer repeats the count to the token."""
    async with buying(node, tmp_path / "b", count_tokens=node.engine.count_tokens) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert (await ask(client)).cost_units


async def test_a_free_answer_needs_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both prices are zero a node writes no receipt, and its answer is good without one."""
    monkeypatch.setattr(harness, "PRICE", Price(0, 0))
    (tmp_path / "node").mkdir()
    async with harness.running_node(tmp_path / "node") as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "b") as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            answer = await ask(client)
            assert answer.text and answer.receipt is None and answer.cost_units == 0


async def test_other_weights_under_a_checked_id_are_refused(node: Node, tmp_path: Path) -> None:
    """What the chain confirmed is an id with its weights, not the id for ever."""
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        offer = await client.offer_of(MODEL)
        swapped = replace(offer, weights_digest=ZERO_HASH)
        client.node.info = replace(client.info, adapters=(swapped,))
        with pytest.raises(NodeNotTrusted, match="other weights"):
            await client.offer_of(MODEL)


async def test_parallel_requests_share_one_channel(node: Node, buyer: BuyerClient) -> None:
    """Several answers at once, two models, one deposit: every receipt fits the same chain."""
    bodies = [chat(f"question {n}", model=MODEL if n % 3 else "fake") for n in range(7)]
    answers = await asyncio.gather(*(ask(buyer, body) for body in bodies))
    assert sum(answer.cost_units or 0 for answer in answers) == sum(buyer.channel.billed.values())
    assert buyer.channel.seq == 7 and not buyer.channel.unlinked
    assert set(buyer.channel.vector) == {ADAPTER, BASE_MODEL}


async def test_claims_in_between_change_nothing_for_the_buyer(
    node: Node, buyer: BuyerClient
) -> None:
    """The node moves to a new base between and during answers; the buyer signs on."""
    for number in range(3):
        async with buyer.ask(chat(f"question {number}", max_tokens=40)) as answer:
            seen = 0
            async for _ in answer:
                seen += 1
                if seen == 10:
                    await node.parts.settlement.step(force=True)
        assert answer.receipt is not None
    await buyer.sync()
    assert buyer.channel.settled_units > 0
    assert buyer.channel.settled_units in buyer.channel.points


async def test_a_restarted_buyer_goes_on_where_it_was(node: Node, tmp_path: Path) -> None:
    """Signed amounts, receipts and the session key survive; nothing is paid twice."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        await ask(client)
        first = client.channel
    async with buying(node, tmp_path / "b") as client:
        assert client.channel == first
        await ask(client)
        assert client.signer == first.signer and client.channel.seq == 2


async def test_leaving_an_answer_early_costs_what_was_sent(node: Node, buyer: BuyerClient) -> None:
    """The receipt that was missed is fetched before the next request, and the ledgers agree."""
    async with buyer.ask(chat(max_tokens=200)) as answer:
        async for _ in answer:
            if len(answer.text) > 12:
                break
    assert answer.receipt is None and buyer.voucher_signer.lacks_receipts
    for _ in range(100):
        await buyer.sync()
        if buyer.channel.seq:
            break
        await asyncio.sleep(0.02)
    assert buyer.channel.seq == 1 and not buyer.voucher_signer.lacks_receipts
    assert 0 < buyer.channel.billed_units(ADAPTER) < PRICE.amount_units(200, 200)
    await ask(buyer)
    assert buyer.channel.seq == 2


async def test_a_bill_that_comes_after_the_sync_is_looked_for(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer left by a process that ended, billed a moment after the next one synced."""
    tight = Limits(ahead_tokens=8, step_tokens=8)
    exact = {"limits": tight, "count_tokens": node.engine.count_tokens}
    async with buying(node, tmp_path / "b", **exact) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        async with client.ask(chat("When is high tide? " * 60, max_tokens=400)) as answer:
            async for _ in answer:
                if len(answer.text) > 12:
                    break
    async with buying(node, tmp_path / "b", **exact) as client:
        for _ in range(100):
            now = await client.api.channel(client.signer, await client.token())
            if now.seq:
                break
            await asyncio.sleep(0.02)
        early, late = replace(now, seq=0), client.api.channel
        views = [early]

        async def channel(*given: Any) -> Any:
            return views.pop() if views else await late(*given)

        monkeypatch.setattr(client.api, "channel", channel)
        answer = await ask(client, chat("When is high tide? " * 6))
        assert answer.receipt is not None and client.channel.seq == 2


async def test_a_node_that_gives_credit_is_paid_for_every_adapter(tmp_path: Path) -> None:
    """What one adapter delivered on credit is promised with the next adapter's voucher."""
    (tmp_path / "node").mkdir()
    async with harness.running_node(tmp_path / "node", credit_window_units=300) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "b") as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            await ask(client, chat(max_tokens=8))
            assert client.channel.signed_units(ADAPTER) < client.channel.billed_units(ADAPTER)
            await ask(client, chat("A long story, please. " * 12, model="fake", max_tokens=60))
            assert client.channel.signed_units(ADAPTER) >= client.channel.billed_units(ADAPTER) > 0


async def test_a_voucher_that_credit_has_overtaken_ends_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that gives credit delivers on while a voucher travels, and then refuses that one."""
    (tmp_path / "node").mkdir()
    async with harness.running_node(tmp_path / "node", credit_window_units=5_000) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "b") as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            pay, idle, refused = client.api.voucher, asyncio.Event(), []
            idle.set()

            async def overtaken(presented: PresentedVoucher) -> ChannelView:
                idle.clear()
                try:
                    for _ in range(1_000):
                        if not node.engine.stats()["open"]:
                            break
                        await asyncio.sleep(0.01)
                    return await pay(presented)
                except PaymentRequired as error:
                    refused.append(error)
                    raise
                finally:
                    idle.set()

            monkeypatch.setattr(client.api, "voucher", overtaken)
            async with client.ask(chat(max_tokens=200)) as answer:
                async for _ in answer:
                    await asyncio.sleep(0.001)
                    await idle.wait()
            assert refused and answer.receipt is not None
            assert answer.cost_units == answer.receipt.receipt.amount_units
            assert client.channel.billed_units(ADAPTER) == answer.cost_units
            monkeypatch.setattr(client.api, "voucher", pay)
            assert (await ask(client, chat("A long story, please. " * 60))).cost_units


async def test_a_challenge_of_many_lines_is_read(node: Node, buyer: BuyerClient) -> None:
    """A 402 names the best voucher: with hundreds of adapters it exceeds aiohttp's 8 KiB."""
    best = tuple(UsageLine(AdapterId(10**6 + n), 10**15) for n in range(255))
    need = NeedVoucher(ADAPTER, 0, 0, 1, best)
    node_at, here = node.chain.address, (DEPLOYMENT.chain_id, DEPLOYMENT.settlement)
    challenge = Challenge("id", "http://node.test", *here, node_at, 1, 1, need=need)
    app = web.Application()

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response(
            {}, status=402, headers={"WWW-Authenticate": challenge.to_header()}
        )

    app.router.add_post("/v1/chat/completions", refuse)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        api = NodeClient(http, str(server.make_url("/")))
        token = await buyer.token()
        async with api.generate("/v1/chat/completions", b"{}", token, {}) as response:
            header = response.headers["WWW-Authenticate"]
    assert len(header) > 8_190 and Challenge.from_header(header) == challenge


async def test_a_top_up_raises_the_limit(node: Node, buyer: BuyerClient) -> None:
    """Opening twice is a top-up of the same channel."""
    await buyer.open_channel(PAYER_KEY, 5_000)
    assert buyer.channel.limit_units == DEPOSIT + 5_000


async def test_a_deposit_asked_for_again_is_the_same_deposit(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that says "it failed" may hold the first: the second try cannot add to it."""
    payer, sent = public_address(PAYER_KEY), []
    before = node.chain.balances[payer]
    async with buying(node, tmp_path / "b") as client:
        relay = client.api.deposit

        async def lost(credential: Any, *, arrives: bool = False) -> Any:
            sent.append(credential)
            if arrives:
                await relay(credential)
            raise NodeUnreachable("no answer came")

        monkeypatch.setattr(client.api, "deposit", lost)
        with pytest.raises(NodeUnreachable):
            await client.open_channel(PAYER_KEY, DEPOSIT)
        monkeypatch.setattr(client.api, "deposit", partial(lost, arrives=True))
        with pytest.raises(NodeUnreachable):
            await client.open_channel(PAYER_KEY, DEPOSIT)
    assert sent[0] == sent[1]
    async with buying(node, tmp_path / "b") as client:
        channel = await client.open_channel(PAYER_KEY, DEPOSIT)
        assert channel.limit_units == DEPOSIT == before - node.chain.balances[payer]
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert client.channel.limit_units == 2 * DEPOSIT


STRANGER = Address("0x000000000000000000000000000000000000dEaD")


@pytest.mark.parametrize(
    "expected",
    [
        replace(DEPLOYMENT, chain_id=1),
        replace(DEPLOYMENT, settlement=STRANGER),
        replace(DEPLOYMENT, token=STRANGER),
    ],
)
async def test_a_node_on_other_contracts_is_refused(
    node: Node, tmp_path: Path, expected: Any
) -> None:
    """No deposit is ever signed towards contracts that the buyer did not choose."""
    with pytest.raises(NodeNotTrusted):
        async with buying(node, tmp_path / "b", expected=expected):
            pass


async def test_a_session_is_signed_only_for_the_dialled_origin(node: Node, tmp_path: Path) -> None:
    """A node that relays another node's challenge gets no signature (threat 37)."""
    async with buying(node, tmp_path / "b", origin="http://elsewhere.test") as client:
        with pytest.raises(NodeNotTrusted, match="dial"):
            await client.sync()


async def test_two_processes_cannot_sign_with_one_key(node: Node, tmp_path: Path) -> None:
    """The ledger is held while it is in use."""
    async with buying(node, tmp_path / "b"):
        with pytest.raises(ConfigError, match="another process"):
            async with buying(node, tmp_path / "b"):
                pass


@pytest.mark.parametrize(
    ("limits", "body", "error"),
    [
        (Limits(prompt_price_units=1), chat(), PriceAboveCap),
        (Limits(completion_price_units=1), chat(), PriceAboveCap),
        (Limits(request_units=1), chat(), PriceAboveCap),
        (Limits(), chat(model="gpt-9"), UnknownModel),
    ],
    ids=["prompt price", "completion price", "request", "model"],
)
async def test_what_the_buyer_does_not_allow_is_not_paid(
    node: Node, tmp_path: Path, limits: Limits, body: Any, error: type[VizError]
) -> None:
    """A cap is a cap: the request ends with a clear error and nothing is signed."""
    async with buying(node, tmp_path / "b", limits=limits) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        with pytest.raises(error):
            await ask(client, body)
        assert client.channel.total_units == 0


async def test_without_a_channel_the_buyer_is_told_to_open_one(node: Node, tmp_path: Path) -> None:
    """The 402 becomes a sentence that says what to do."""
    async with buying(node, tmp_path / "b") as client:
        with pytest.raises(ChannelUnknown, match="open a channel"):
            await ask(client)


async def test_a_small_deposit_ends_the_answer_not_the_books(node: Node, tmp_path: Path) -> None:
    """When the deposit is used up the stream ends with the reason, and nothing exceeds it."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, 1_000)
        with pytest.raises(DepositExceeded):
            for _ in range(40):
                await ask(client)
        assert 0 < client.channel.total_units <= 1_000


async def test_what_was_signed_ahead_is_used_before_anything_new_is_signed(
    node: Node, buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leftovers do not add up, adapter by adapter, and an answer that they cover signs nothing."""
    ahead = PRICE.amount_units(0, buyer.limits.ahead_tokens) + 1
    for number in range(6):
        for model, adapter_id in ((MODEL, ADAPTER), ("fake", BASE_MODEL)):
            await ask(buyer, chat(f"question {number}", model=model, seed=number, temperature=1))
            left = buyer.channel.signed_units(adapter_id) - buyer.channel.billed_units(adapter_id)
            assert 0 <= left <= ahead

    async def none(*_: Any) -> None:
        raise AssertionError("a voucher was signed")

    signed = buyer.channel.total_units
    assert buyer.channel.signed_units(ADAPTER) - buyer.channel.billed_units(ADAPTER) > 100
    monkeypatch.setattr(buyer.api, "voucher", none)
    assert (await ask(buyer, chat("hi", max_tokens=1))).cost_units
    assert buyer.channel.total_units == signed


async def test_sixty_questions_at_once_are_all_answered(tmp_path: Path) -> None:
    """What one request pays for its beginning may go to another: they pay for one another."""
    (tmp_path / "node").mkdir()
    policy = ServingPolicy(step_tokens=32, voucher_grace_s=60)
    async with running_node(tmp_path / "node", policy=policy) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with buying(node, tmp_path / "b") as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            answers = await asyncio.gather(
                *(ask(client, chat(seed=n, temperature=1)) for n in range(60))
            )
            assert all(answer.receipt for answer in answers)
            assert client.channel.seq == 60
            step = PRICE.amount_units(0, 60 * client.limits.ahead_tokens)
            assert client.channel.total_units <= sum(client.channel.billed.values()) + step
