"""However a request ends: one bill for what the buyer got, and none for what it did not."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api.harness import ADAPTER, PRICE, Buyer, Node, running_node
from tests.integration.api.test_streams import BrokenEngine, idle, last_receipt, spent_of

from viz.domain.ports.engine import Sampling
from viz.domain.ports.ledger import AccessRecord, ChannelRecord
from viz.domain.text_request import TextRequest
from viz.domain.units import ZERO_HASH, AdapterId
from viz.errors import StoreConflict
from viz.protocol import payment
from viz.services.payments.channels import ATTEMPTS
from viz.services.serving.paid_stream import PaidStream


def asking(model: str, *, stream: bool) -> TextRequest:
    """Return a request for 16 tokens."""
    return TextRequest(False, model, "When?", Sampling(16), 16, 1, stream, False)


async def paid(node: Node) -> Buyer:
    """Return a buyer that signed enough for many requests."""
    buyer = await Buyer(node).ready()
    await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 40_000, 0))
    return buyer


async def test_a_whole_answer_that_broke_off_costs_nothing(tmp_path: Path) -> None:
    """Without streaming nothing reached the buyer when the engine failed, so nothing is owed."""
    async with running_node(tmp_path, engine=BrokenEngine(5)) as node:
        buyer = await paid(node)
        answer = await buyer.ask(buyer.chat(stream=False, max_tokens=20), pays=False)
        assert answer.status == 500 and answer.body["code"] == "engine"
        await idle(node)
        assert sum((await spent_of(node, buyer)).values()) == 0
        assert not await node.store.receipts(buyer.signer)
        active_channel = await node.parts.vouchers._channels.get(buyer.signer)
        assert active_channel.channel.reserved == {} and not active_channel.deliveries


async def test_a_whole_answer_that_the_node_cut_off_costs_nothing(tmp_path: Path) -> None:
    """A node that stops before it sent anything bills nothing, the prompt included."""
    async with running_node(tmp_path) as node:
        buyer = await paid(node)
        offer, opened = node.parts.catalogue.offer(ADAPTER), asyncio.Event()
        asked = asking(offer.model, stream=False)

        async def serve() -> None:
            access = AccessRecord(ZERO_HASH, buyer.signer, node.clock.now + 60)
            async with node.parts.serving.open(
                asked, offer, access, request_id="r", body=b"{}"
            ) as stream:
                await anext(aiter(stream.events()))
                opened.set()
                await asyncio.Event().wait()

        serving_it = asyncio.create_task(serve())
        await opened.wait()
        serving_it.cancel()
        await idle(node)
        assert sum((await spent_of(node, buyer)).values()) == 0
        assert not await node.store.receipts(buyer.signer)


async def test_a_bill_that_met_other_writers_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that changes faster than it can be billed is billed when the stream closes."""
    async with running_node(tmp_path) as node:
        buyer = await paid(node)
        commit, refused = node.store.commit, 0

        async def busy(
            point: str,
            channel: ChannelRecord,
            *,
            touched: Collection[AdapterId] | None = None,
            **more: Any,
        ) -> ChannelRecord:
            nonlocal refused
            if point == "receipt" and refused < ATTEMPTS:
                refused += 1
                raise StoreConflict("changed by another request")
            return await commit(point, channel, touched=touched, **more)

        monkeypatch.setattr(node.store, "commit", busy)
        await buyer.ask(pays=False)
        await idle(node)
        receipt = await last_receipt(node, buyer)
        assert refused == ATTEMPTS and receipt.completion_tokens > 0
        assert await spent_of(node, buyer) == {ADAPTER: receipt.amount_units}
        assert receipt.amount_units == PRICE.amount_units(
            receipt.prompt_tokens, receipt.completion_tokens
        )
        active_channel = await node.parts.vouchers._channels.get(buyer.signer)
        assert active_channel.channel.reserved == {} and not active_channel.deliveries


async def test_the_drain_waits_for_the_bill_of_who_was_cut_off_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger does not close under a bill that is still being written."""
    async with running_node(tmp_path) as node:
        buyer = await paid(node)
        go_on, closing, close = asyncio.Event(), asyncio.Event(), PaidStream.close
        opened = asyncio.Event()

        async def slow(stream: PaidStream) -> None:
            closing.set()
            await go_on.wait()
            await close(stream)

        monkeypatch.setattr(PaidStream, "close", slow)
        serving = node.parts.serving
        offer = node.parts.catalogue.offer(ADAPTER)
        asked = asking(offer.model, stream=True)

        async def serve() -> None:
            access = AccessRecord(ZERO_HASH, buyer.signer, node.clock.now + 60)
            async with serving.open(asked, offer, access, request_id="r", body=b"{}"):
                opened.set()
                await asyncio.Event().wait()

        serving_it = asyncio.create_task(serve())
        await opened.wait()
        serving_it.cancel()
        await closing.wait()
        serving_it.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving_it
        assert serving.running == 1
        go_on.set()
        await serving.drain()
        assert (await last_receipt(node, buyer)).amount_units > 0
