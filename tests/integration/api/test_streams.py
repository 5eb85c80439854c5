"""What is billed, whoever leaves, fails, repeats or restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import FakeChain
from tests.fakes.engine import FakeEngine, OneAtATime
from tests.integration.api.harness import (
    ADAPTER,
    NODE_KEY,
    PRICE,
    Buyer,
    Node,
    running_node,
)

from viz.domain import buyer_channel as buyer_channels
from viz.domain.ports.engine import Generation, GenerationRequest, Piece
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.units import BASE_MODEL, AdapterId, Units
from viz.errors import EngineError
from viz.protocol import payment
from viz.services.serving.paid_stream import ServingPolicy


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


class BrokenEngine(FakeEngine):
    """An engine that fails after so many pieces of every answer."""

    def __init__(self, after: int) -> None:
        super().__init__(context_tokens=2048)
        self._after = after

    async def generate(self, request: GenerationRequest) -> Generation:
        return _Broken(await super().generate(request), self._after)


class _Broken:
    def __init__(self, inner: Generation, after: int) -> None:
        self._inner, self._left = inner, after

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        if self._left == 0:
            raise EngineError("the engine failed: try again later")
        self._left -= 1
        return await self._inner.__anext__()

    def allow(self, total_tokens: int) -> None:
        self._inner.allow(total_tokens)

    async def cancel(self) -> None:
        await self._inner.cancel()


async def spent_of(node: Node, buyer: Buyer) -> dict[int, Units]:
    """Return what the ledger on disk says was spent."""
    record = await node.store.channel(buyer.signer)
    return {} if record is None else {k: x.spent_units for k, x in record.lines.items()}


async def last_receipt(node: Node, buyer: Buyer) -> Any:
    rows = await node.store.receipts(buyer.signer)
    return payment.receipt_from_json(json.loads(rows[-1].body)).receipt


async def idle(node: Node) -> None:
    """Wait until no generation is under way."""
    await node.parts.serving.drain()


async def test_a_stream_that_gets_no_voucher_stops(node: Node) -> None:
    """Nothing is sent beyond what is paid, and what was sent is billed."""
    buyer = await Buyer(node).ready()
    need = (await buyer.need_of(buyer.chat())).need
    assert need is not None
    await buyer.satisfy(need)
    answer = await buyer.ask(pays=False)
    assert answer.finish == "length" and len(answer.needs) == 1
    assert node.engine.count_tokens(answer.text) == 8, "one step of 8 tokens was paid for"
    assert answer.receipt is not None
    assert answer.receipt.receipt.amount_units == need.required_units
    record = await node.store.channel(buyer.signer)
    assert record is not None
    assert record.lines[ADAPTER].spent_units <= record.lines[ADAPTER].accepted_units


async def test_a_choice_that_cannot_begin_holds_up_no_end(tmp_path: Path) -> None:
    """A choice without money kept its place in a full engine from the next for two minutes."""
    async with running_node(tmp_path, engine=OneAtATime()) as node, asyncio.timeout(20):
        buyer = await Buyer(node).ready()
        body = buyer.chat(n=2)
        need = (await buyer.need_of(body)).need
        assert need is not None
        await buyer.satisfy(need)
        answer = await buyer.ask(body, pays=False)
        assert answer.receipt is not None
        assert (
            answer.receipt.receipt.completion_tokens == node.engine.count_tokens(answer.text) == 8
        )


async def test_a_buyer_that_hangs_up_pays_for_what_was_sent(node: Node) -> None:
    """A disconnect bills the prompt and the text sent, and the receipt is there to fetch."""
    buyer = await Buyer(node).ready()
    body = buyer.chat(max_tokens=600)
    need = (await buyer.need_of(body)).need
    assert need is not None
    await buyer.satisfy(need, extra=10_000)
    async with node.http.post(
        node.url + payment.CHAT_PATH, json=body, headers=buyer.bearer()
    ) as response:
        await response.content.readline()
        response.close()
    await idle(node)
    receipt = await last_receipt(node, buyer)
    assert receipt.amount_units == PRICE.amount_units(
        receipt.prompt_tokens, receipt.completion_tokens
    )
    assert receipt.amount_units >= PRICE.amount_units(receipt.prompt_tokens, 0) > 0
    assert await spent_of(node, buyer) == {ADAPTER: receipt.amount_units}
    active_channel = await node.parts.vouchers._channels.get(buyer.signer)
    assert active_channel.channel.reserved == {}, "the rest of the reservation was given back"


async def test_a_stopping_node_bills_its_open_streams(tmp_path: Path) -> None:
    """Shutdown cuts a waiting stream off after the grace, and its receipt is on disk."""
    policy = ServingPolicy(step_tokens=8, voucher_grace_s=60)
    async with running_node(tmp_path, policy=policy) as node:
        buyer = await Buyer(node).ready()
        need = (await buyer.need_of(buyer.chat())).need
        assert need is not None
        await buyer.satisfy(need)
        async with node.http.post(
            node.url + payment.CHAT_PATH, json=buyer.chat(), headers=buyer.bearer()
        ) as response:
            while b"payment-need-voucher" not in await response.content.readline():
                pass
            await node.runner.cleanup()
        receipt = await last_receipt(node, buyer)
        assert 0 < receipt.amount_units <= need.required_units
        assert await spent_of(node, buyer) == {ADAPTER: receipt.amount_units}


async def test_a_voucher_of_many_lines_fits_the_header(node: Node) -> None:
    """One voucher pays for what 255 adapters delivered, and arrives."""
    buyer = Buyer(node)
    spent = {AdapterId(2**31 + number): 1_000 + number for number in range(1, 255)}
    lines = {key: ChannelLineRecord(spent_units=units) for key, units in spent.items()}
    await node.store.commit("deliver", ChannelRecord(buyer.signer, lines=lines))
    await buyer.ready()
    for key, units in spent.items():
        buyer.channel = buyer_channels.raise_signed(buyer.channel, key, units)
    status, view = await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 10, 0))
    assert status == 200, view
    assert len(view["best"]) == 255


@pytest.mark.parametrize("after", [0, 5])
async def test_a_failing_node_bills_what_it_sent(tmp_path: Path, after: int) -> None:
    """A failure before the first token costs nothing; after it, what was sent."""
    async with running_node(tmp_path, engine=BrokenEngine(after)) as node:
        buyer = await Buyer(node).ready()
        answer = await buyer.ask()
        assert answer.body["error"]["code"] == "engine"
        await idle(node)
        spent = await spent_of(node, buyer)
        if after == 0:
            assert sum(spent.values()) == 0 and not await node.store.receipts(buyer.signer)
        else:
            receipt = await last_receipt(node, buyer)
            assert receipt.completion_tokens == node.engine.count_tokens(answer.text) == 5
            assert spent == {ADAPTER: receipt.amount_units}


async def test_every_voucher_commits_what_is_spent_so_far(node: Node) -> None:
    """While the answer streams, the ledger already holds the delivered part (threat 15)."""
    buyer = await Buyer(node).ready()
    seen: list[Units] = []
    satisfy = buyer.satisfy

    async def watched(need: payment.NeedVoucher, extra: Units = 0) -> tuple[int, Any]:
        done = await satisfy(need, extra)
        seen.append(sum((await spent_of(node, buyer)).values()))
        return done

    buyer.satisfy = watched  # type: ignore[method-assign]
    answer = await buyer.ask(buyer.chat(max_tokens=60))
    assert answer.receipt is not None
    assert seen == sorted(seen) and 0 < seen[-1] <= answer.receipt.receipt.amount_units


async def test_a_repeated_request_is_answered_again_and_billed_once(node: Node) -> None:
    """An idempotency key replays the stored answer, for the same token and body alone."""
    buyer = await Buyer(node).ready()
    key = {"Idempotency-Key": "k1"}
    body = buyer.chat(max_tokens=6)
    first = await buyer.ask(body, headers=key)
    again = await buyer.ask(body, headers=key, pays=False)
    assert again.headers["Idempotent-Replayed"] == "true" and again.text == first.text
    assert again.receipt == first.receipt and len(await node.store.receipts(buyer.signer)) == 1
    other = await buyer.ask(buyer.chat("another"), headers=key, pays=False)
    assert other.status == 400 and "another request" in other.body["detail"]
    await buyer.login()
    fresh = await buyer.ask(body, headers=key)
    assert fresh.receipt is not None and fresh.receipt != first.receipt, "scoped to the token"
    await node.store.forget_answers(node.clock.now + 1)
    gone = await buyer.ask(body, headers=key, pays=False)
    assert gone.status == 409 and "responseHash" in gone.body


async def test_parallel_requests_on_one_channel_add_up(node: Node) -> None:
    """Many requests, two adapters, one channel: receipts chain without a gap and sum to spent."""
    buyer = await Buyer(node).ready()
    for adapter_id in (BASE_MODEL, ADAPTER):
        await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(adapter_id, 40_000, 0))
    bodies = [
        buyer.chat(f"question {n}", model=m) for n in range(6) for m in ("fake", "viz-adapter-7")
    ]
    answers = await asyncio.gather(*(buyer.ask(body, pays=False) for body in bodies))
    assert all(answer.receipt is not None for answer in answers)
    assert buyer.channel.seq == 12 and not buyer.channel.unlinked
    assert await spent_of(node, buyer) == dict(buyer.channel.billed)
    active_channel = await node.parts.vouchers._channels.get(buyer.signer)
    assert active_channel.channel.reserved == {} and not active_channel.deliveries


async def test_concurrent_requests_cannot_spend_the_same_money(node: Node) -> None:
    """What is paid for one step admits one request, not two (threat 20)."""
    buyer = await Buyer(node).ready()
    body = buyer.chat(max_tokens=8)
    need = (await buyer.need_of(body)).need
    assert need is not None
    await buyer.satisfy(need)
    answers = await asyncio.gather(*(buyer.ask(body, pays=False) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 402, 402, 402]


async def test_a_restarted_node_goes_on_where_it_was(tmp_path: Path) -> None:
    """Channel, receipts and tokens survive; the next receipt continues the chain."""
    chain = FakeChain(NODE_KEY)
    async with running_node(tmp_path, chain=chain) as node:
        buyer = await Buyer(node).ready()
        await buyer.ask()
        await node.parts.settlement.step(force=True)
        await buyer.observe()
        await buyer.ask()
        before = await buyer.view()
    async with running_node(tmp_path, chain=chain) as node:
        buyer.node = node
        assert await buyer.view() == before
        answer = await buyer.ask()
        assert answer.receipt is not None and answer.receipt.receipt.seq == 3
        assert buyer.channel.seq == 3


async def test_a_claim_moves_the_base_and_old_vouchers_are_told(node: Node) -> None:
    """After a row was frozen only vouchers on its end point count (threat 10)."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    end = buyer.channel.total_units
    stale = buyer.voucher(ADAPTER, end + 500, 0)
    await node.parts.settlement.step(force=True)
    status, problem = await buyer.pay(payment.VOUCHERS_PATH, stale)
    assert status == 409 and problem["code"] == "stale-voucher" and problem["base"] == str(end)
    status, view = await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, end + 500, end))
    assert status == 200 and view["base"] == str(end) and view["best"] == [[ADAPTER, "500"]]
    await node.parts.settlement.step(force=True)
    await buyer.observe()
    assert buyer.channel.settled_units == end + 500


async def test_claims_between_vouchers_lose_nothing(node: Node) -> None:
    """Streams, vouchers and claims at once: every promise is claimed once, every unit accounted."""
    buyer = await Buyer(node).ready()
    before = node.chain.balances[buyer.payer]
    done = asyncio.Event()

    async def claim() -> None:
        while not done.is_set():
            await node.parts.settlement.step(force=True)
            await asyncio.sleep(0.005)

    async def pay(adapter_id: AdapterId, target: Units) -> None:
        base = 0
        while True:
            status, answer = await buyer.pay(
                payment.VOUCHERS_PATH, buyer.voucher(adapter_id, target, base)
            )
            if status == 200:
                return
            assert answer["code"] in ("stale-voucher", "line-below-best"), answer
            base = int(answer["base"])

    async def ask(number: int) -> None:
        adapter_id = (BASE_MODEL, ADAPTER)[number % 2]
        async with signing:
            await pay(adapter_id, buyer.channel.signed_units(adapter_id) + 400)
        model = ("fake", "viz-adapter-7")[number % 2]
        assert (await buyer.ask(buyer.chat(model=model, max_tokens=16), pays=False)).receipt

    signing = asyncio.Lock()
    claims = asyncio.create_task(claim())
    await asyncio.gather(*(ask(number) for number in range(12)))
    done.set()
    await claims
    await node.parts.settlement.step(force=True)
    await buyer.observe()
    assert buyer.channel.settled_units == buyer.channel.total_units == 12 * 400
    record = await node.store.channel(buyer.signer)
    assert record is not None and record.base_units == 12 * 400 and not record.unclaimed()
    assert await spent_of(node, buyer) == dict(buyer.channel.billed)
    assert record.total_units == sum(buyer.channel.billed.values()) and record.seq == 12
    await buyer.close()
    assert node.chain.balances[buyer.payer] == before + 10**6 - 12 * 400


async def test_a_top_up_lets_a_channel_go_on(node: Node) -> None:
    """What the deposit does not cover is refused; after a top-up it is taken."""
    buyer = await Buyer(node).ready(amount=1_000)
    status, _ = await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 1_000, 0))
    assert status == 200
    status, view = await buyer.pay(payment.CHANNELS_PATH, buyer.deposit(5_000, opening=False))
    assert status == 200 and view["deposit"] == "6000"
    await buyer.observe()
    status, _ = await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 6_000, 0))
    assert status == 200


async def test_a_closing_channel_sells_nothing(node: Node) -> None:
    """A close request seen on chain, confirmed or not, ends service at once (threat 14)."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    key = buyer.signer, node.chain.address
    node.chain.channels[key] = replace(node.chain.channels[key], close_at=node.clock.now + 86_400)
    node.clock.now += 6
    answer = await buyer.ask(pays=False)
    assert answer.status == 409 and answer.body["code"] == "channel-closing"


async def test_a_whole_answer_is_paid_ahead_within_a_cap(tmp_path: Path) -> None:
    """Without streaming all that may be needed is reserved, up to a cap; the rest comes back."""
    policy = ServingPolicy(step_tokens=8, voucher_grace_s=0.3, max_prepay_units=2_000)
    async with running_node(tmp_path, policy=policy) as node:
        buyer = await Buyer(node).ready()
        refused = await buyer.ask(buyer.chat(stream=False, max_tokens=900), pays=False)
        assert refused.status == 400 and "stream" in refused.body["detail"]
        answer = await buyer.ask(buyer.chat(stream=False, max_tokens=20))
        assert answer.status == 200 and answer.body["choices"][0]["message"]["content"]
        used = answer.body["usage"]
        cost = PRICE.amount_units(used["prompt_tokens"], used["completion_tokens"])
        assert await spent_of(node, buyer) == {ADAPTER: cost}
        assert payment.RECEIPT_HEADER in answer.headers
