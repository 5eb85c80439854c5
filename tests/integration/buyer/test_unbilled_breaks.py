"""A node that breaks off answers and never bills them, or bills what the buyer left later.

What it holds beyond its bills and beyond what arrived is one account, over all adapters and all of
the buyer's processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api.harness import ADAPTER, PAYER_KEY, PRICE, Node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.rogue import CUT, PAUSE, Part, Rogue, Script
from tests.integration.buyer.test_untrue_node import DONE, PROMPT_TOKENS, ask, chat, said

from viz.buyer.channels import sync as channel_sync
from viz.buyer.client import BuyerClient
from viz.buyer.terms.checks import Limits
from viz.domain.node_channel import PresentedVoucher
from viz.domain.units import AdapterId, Units
from viz.errors import (
    DepositExceeded,
    NodeNotTrusted,
    NodeUnreachable,
    PaymentRequired,
    StoreConflict,
    VizError,
)
from viz.protocol.messages import ChannelView
from viz.protocol.problems import error_of

# A step, at the price of these answers and at the cap that the buyer did not name.
STEP = PRICE.amount_units(0, Limits().step_tokens)
ALLOWED = Limits().step_units


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_sync, "LATE_BILL_WAITS_S", (0.0, 0.001))


@pytest.fixture
def rogue() -> Rogue:
    return Rogue()


@pytest.fixture
async def buyer(node: Node, tmp_path: Path, rogue: Rogue) -> AsyncIterator[BuyerClient]:
    async with buying(node, tmp_path / "buyer") as client:
        await client.open_channel(PAYER_KEY, 3_000_000)
        rogue.attach(client)
        yield client


def _broken(_: bytes) -> list[Part]:
    return [said("a"), CUT]


def _conflict(_: bytes) -> list[Part]:
    raise error_of({"code": StoreConflict.code, "detail": "no"}, 409)


@pytest.mark.parametrize("breaks", [_broken, _conflict])
async def test_an_answer_that_broke_off_is_not_signed_ahead_for(
    rogue: Rogue, buyer: BuyerClient, breaks: Script
) -> None:
    """Each good answer was signed for as if the broken ones before it were owed, without a count:
    400 bills of the sum that was billed, in the end."""
    for cycle in range(8):
        rogue.script = breaks
        for number in range(4):
            with pytest.raises(VizError):
                await ask(buyer, max_tokens=1_000, seed=10 * cycle + number)
        rogue.script = rogue.good()
        assert await ask(buyer, max_tokens=1_000, seed=10 * cycle + 9)
    assert rogue.held_units - rogue.billed_units <= STEP
    assert not buyer.voucher_signer.fault


async def test_a_refusal_of_a_voucher_is_a_demand_like_any_other(
    rogue: Rogue, buyer: BuyerClient
) -> None:
    """`payment-required` at the vouchers' route was paid up to the ceiling, and nobody counted."""
    rogue.script = lambda _: [CUT]
    for number in range(20):
        with pytest.raises(VizError):
            await ask(buyer, max_tokens=1_000, seed=number)
    ceiling = buyer.voucher_signer.ceiling_units(ADAPTER)
    assert ceiling > ALLOWED

    def refuses(presented: PresentedVoucher) -> None:
        if presented.row.end_units < ceiling:
            more = {"adapterId": int(ADAPTER), "required": str(ceiling)}
            raise error_of({"code": PaymentRequired.code, "detail": "more", **more}, 402)

    rogue.on_voucher = refuses
    rogue.script = lambda _: [said("a"), rogue.need(300), *[PAUSE] * 10, *[said("a")] * 20, CUT]
    with pytest.raises(NodeNotTrusted, match="did not bill them"):
        await ask(buyer, max_tokens=1_000, seed=99)
    assert rogue.held_units <= STEP


def _more_adapters(client: BuyerClient, count: int) -> dict[str, AdapterId]:
    """Let the node offer more adapters; return their models and ids."""
    known = next(each for each in client.info.adapters if each.adapter_id == ADAPTER)
    more = tuple(
        replace(known, adapter_id=AdapterId(each), model=f"viz-adapter-{each}", name=f"m{each}")
        for each in range(100, 100 + count)
    )
    client.node.info = replace(client.info, adapters=client.info.adapters + more)
    return {each.model: each.adapter_id for each in more}


async def test_what_may_be_lost_is_one_sum_over_all_adapters(
    rogue: Rogue, buyer: BuyerClient
) -> None:
    """A batch over eight adapters was one incident, and each adapter had an allowance of its own.

    The node got eight of them, 415,104 units.
    """
    models = _more_adapters(buyer, 8)
    rogue.script = lambda _: [*[PAUSE] * 3, CUT]
    batch = [ask(buyer, model=each, max_tokens=1_000, seed=n) for each in models for n in range(15)]
    await asyncio.gather(*batch, return_exceptions=True)
    for model, adapter_id in models.items():
        every = buyer.voucher_signer.ceiling_units(adapter_id) + STEP
        rogue.script = rogue.demanding(every, adapter_id)
        with suppress(VizError):
            await ask(buyer, model=model, max_tokens=1_000, seed=77)
    assert rogue.held_units - rogue.billed_units <= ALLOWED + 2 * STEP
    with pytest.raises(NodeNotTrusted, match="did not bill them"):
        buyer.voucher_signer.require_trust()


async def test_each_question_its_own_process_is_no_way_around_it(
    node: Node, tmp_path: Path, rogue: Rogue
) -> None:
    """Each process signed ahead anew for all that had broken off in the ones before it."""
    text = "a" * 33
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, 3_000_000)
    rogue.script = lambda _: [*[said("a")] * len(text), *[PAUSE] * 5, CUT]
    for number in range(12):
        async with buying(node, tmp_path / "b") as client:
            rogue.attach(client)
            with pytest.raises(VizError):
                await ask(client, max_tokens=1_000, seed=number)
    assert rogue.held_units <= STEP


def _long(rogue: Rogue, _: bytes) -> list[Part]:
    """An answer that demands all that may be signed for it, and goes on until it is left."""
    every = rogue.client.voucher_signer.ceiling_units(ADAPTER)
    return [said("a"), rogue.need(every), *[PAUSE] * 3, *[said("a")] * 20, *[PAUSE] * 400]


async def _leave(client: BuyerClient, **more: int) -> str:
    async with client.ask(chat(max_tokens=1_000, **more)) as answer:
        pieces = 0
        async for _ in answer:
            pieces += 1
            if pieces == 8:
                break
    return answer.text


@pytest.mark.parametrize(("choices", "most"), [(1, 25), (8, 6)])
async def test_an_answer_that_was_left_is_weighed_in_the_next_process_too(
    node: Node, tmp_path: Path, rogue: Rogue, choices: int, most: int
) -> None:
    """`viz buyer ask` that is stopped each time: a step more than arrived, each time, without end.

    What was known of the answer was on disk, and that it had ended was not.
    """
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, 3_000_000)
    robbed: Units = 0
    for number in range(most):
        async with buying(node, tmp_path / "b") as client:
            rogue.attach(client)
            client.node.info = replace(client.info, minimum_step_units=STEP)
            rogue.script = partial(_long, rogue)
            if client.voucher_signer.fault:
                break
            try:
                text = await _leave(client, seed=number, n=choices)
            except NodeNotTrusted:
                break
            (kept,) = client.voucher_signer._open_requests._awaiting
            rogue.bill(rogue.requests[-1], text, kept.units)
            robbed += kept.units - PRICE.amount_units(PROMPT_TOKENS, len(text))
    else:
        pytest.fail(f"the node went on, and had {robbed} units for nothing")
    assert robbed <= ALLOWED + 4 * choices * STEP


async def test_a_node_that_is_forgiven_is_asked_again(rogue: Rogue, buyer: BuyerClient) -> None:
    """What broke off before is not held against it a second time, or forgiving would be in vain."""
    rogue.script = lambda _: [CUT]
    for number in range(30):
        with pytest.raises(VizError):
            await ask(buyer, max_tokens=1_000, seed=number)
    every = buyer.voucher_signer.ceiling_units(ADAPTER)
    rogue.script = lambda body: [rogue.need(every), *[PAUSE] * 5, *[said("a")] * 20, CUT]
    with pytest.raises(NodeNotTrusted):
        await ask(buyer, max_tokens=1_000, seed=99)
    buyer.forgive()
    rogue.script = rogue.good()
    for number in range(3):
        assert await ask(buyer, max_tokens=1_000, seed=200 + number)
    assert not buyer.voucher_signer.fault


async def test_payment_events_are_read_from_comments(rogue: Rogue, buyer: BuyerClient) -> None:
    """A front that drops `Accept-Payment` made every answer end without its bill."""
    text = "a" * 60
    units = PRICE.amount_units(PROMPT_TOKENS, len(text))

    def commented(event: bytes) -> bytes:
        name, data = event.decode().strip().split("\n")
        return f": {name[7:]} {data[6:]}\n\n".encode()

    rogue.script = lambda body: [
        said("a"),
        commented(rogue.need(units)),
        *[PAUSE] * 3,
        *[said("a")] * 59,
        lambda: commented(rogue.bill(body, text, units)),
        DONE,
    ]
    assert await ask(buyer, max_tokens=1_000) == text
    assert rogue.held_units >= units and buyer.channel.billed_units(ADAPTER) == units


async def test_a_deposit_that_the_node_understates_excuses_no_bill(
    rogue: Rogue, buyer: BuyerClient
) -> None:
    """It named a smaller deposit in mid-answer, billed the line, and named the true one again.

    So it got 501,000 units in 30 answers for a letter each, and nothing was held against it.
    """
    understated, told = False, buyer.api.voucher

    async def voucher(presented: Any) -> ChannelView:
        nonlocal understated
        view = await told(presented)
        understated = True
        return replace(view, deposit_units=buyer.channel.total_units)

    buyer.api.voucher = voucher  # type: ignore[method-assign,assignment]
    for number in range(6):
        understated = False
        billed_units = buyer.channel.billed_units(ADAPTER)
        near = billed_units + PRICE.amount_units(PROMPT_TOKENS, 40)

        def script(_: bytes, near: int = near) -> list[Part]:
            more = near + PRICE.amount_units(0, 200)
            demands: list[Part] = [lambda: rogue.need(near), *[PAUSE] * 20]
            return [said("a"), *demands, lambda: rogue.need(more), *[PAUSE] * 100]

        rogue.script = script
        with pytest.raises(DepositExceeded):
            await ask(buyer, max_tokens=1_000, seed=number)
        assert understated
        (open_request,) = buyer.voucher_signer._open_requests.ended()
        arrived_units, units = open_request.arrived_units, open_request.units
        # A bill for text that never arrived, and true to itself.
        tokens = PRICE.completion_tokens_for(units, PROMPT_TOKENS)
        rogue.bill(rogue.requests[-1], "a", units, tokens=tokens)
        with suppress(VizError):
            await buyer.sync()
        assert buyer.channel.billed_units(ADAPTER) == billed_units + units
        lost_units = (number + 1) * (units - arrived_units)
        assert buyer.voucher_signer.standing.lost_units == lost_units > 0


async def test_a_refusal_that_cannot_be_read_is_no_fault_of_the_request(
    rogue: Rogue, buyer: BuyerClient
) -> None:
    """As an invalid request it kept a buyer of several nodes from asking the next one."""

    def refuses(_: PresentedVoucher) -> None:
        raise error_of({"code": PaymentRequired.code, "detail": "more", "required": []}, 402)

    rogue.on_voucher = refuses
    rogue.script = lambda _: [said("a"), rogue.need(300), *[PAUSE] * 100]
    with pytest.raises(NodeUnreachable, match="not of a node"):
        await ask(buyer, max_tokens=1_000)
