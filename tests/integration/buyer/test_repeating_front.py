"""A server before an honest node repeats requests and answers, or changes what it hands on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from aiohttp import web
from multidict import CIMultiDict
from tests.fakes.chain import address_of
from tests.integration.api.harness import ADAPTER, DEPOSIT
from tests.integration.buyer.test_front import Forward, Front, Written, buyer, front, in_step
from tests.integration.buyer.test_untrue_node import another_byte, ask

from viz.buyer.client import BuyerClient
from viz.buyer.ledger.node_standing import BROKEN_ALLOWED
from viz.domain.units import ZERO_ADDRESS
from viz.errors import (
    EngineOverloaded,
    NodeNotTrusted,
    NodeRefused,
    NodeUnreachable,
    PriceAboveCap,
)
from viz.protocol.payment import CHANNEL_PATH, CHAT_PATH, NAME_HEADER, QUOTE_HEADER, Challenge

__all__ = ["buyer", "front"]
ANSWER = "WWW-Authenticate"
Acts = Callable[[Forward], Awaitable[web.Response]]


async def _second(forward: Forward) -> web.Response:
    """A retry of what the node had answered: the first answer was lost."""
    first = await forward()
    return await forward() if first.status == 200 else first


async def _first(forward: Forward) -> web.Response:
    """A mirror of all traffic, for tests of somebody's."""
    first = await forward()
    await forward()
    return first


async def _both(forward: Forward) -> web.Response:
    """A hedged request: the quicker answer is taken."""
    return (await asyncio.gather(forward(), forward()))[1]


@pytest.mark.parametrize("repeats", [_second, _first, _both])
async def test_a_request_that_is_repeated_on_the_way_is_served_and_billed_once(
    front: Front, buyer: BuyerClient, repeats: Acts
) -> None:
    """It was billed twice, and the second bill, for which nobody asked, accused the node for good.

    What was signed ahead paid for the second.
    """
    assert await ask(buyer, max_tokens=8)
    front.path, front.acts = CHAT_PATH, repeats
    try:
        assert await ask(buyer, max_tokens=8, seed=2)
    except NodeUnreachable as error:
        assert "repeated the request" in error.detail
    front.acts = None
    assert await in_step(buyer)
    assert buyer.channel.seq == 3


@pytest.mark.parametrize("repeats", [_second, _first])
async def test_a_request_that_is_repeated_without_its_name_accuses_nobody_for_good(
    front: Front, buyer: BuyerClient, repeats: Acts
) -> None:
    """A front that hands on no header it does not know had the node bill what no request asked."""
    assert await ask(buyer, max_tokens=8)
    front.path, front.acts, front.takes_out = CHAT_PATH, repeats, (NAME_HEADER.lower(),)
    for number in range(2):  # what is signed ahead does not pay for a repetition at first
        with suppress(PriceAboveCap):  # asked for before the repetition's bill was read
            assert await ask(buyer, max_tokens=8, seed=number)
    front.acts = None
    buyer.forgive()  # three repetitions may have ended the trust, like three broken answers
    assert await in_step(buyer)
    assert buyer.channel.seq > 4


async def test_a_request_that_is_written_anew_on_the_way_accuses_nobody_for_good(
    front: Front, buyer: BuyerClient
) -> None:
    """Gateways read JSON and write it again: the bill was for a request that nobody had made."""
    assert await ask(buyer, max_tokens=8)
    front.rewrites = lambda body: body.replace(b": ", b":") + b"\n" if body else body
    with pytest.raises(NodeUnreachable, match="does not match this request"):
        await ask(buyer, max_tokens=8, seed=2)
    front.rewrites = bytes
    assert await in_step(buyer)
    assert buyer.channel.seq == 3
    assert len(buyer.voucher_signer.standing.broken) == 1


async def test_a_quote_that_was_taken_out_accuses_nobody(front: Front, buyer: BuyerClient) -> None:
    """The node bills the same at its list price, and says so: "names another quote" was a lie."""
    front.takes_out = (QUOTE_HEADER.lower(),)
    assert await ask(buyer, max_tokens=8)
    assert await in_step(buyer)


async def test_an_answer_to_an_earlier_request_is_not_taken_and_accuses_nobody(
    front: Front, buyer: BuyerClient
) -> None:
    """A cache that keeps what it may not answered with it; the node was a liar for good."""
    kept: list[web.Response] = []

    async def cached(forward: Forward) -> web.Response:
        answer = await forward()
        if answer.status != 200:
            return answer
        kept.append(answer)
        return web.Response(status=200, body=kept[0].body, headers=kept[0].headers)

    front.path, front.acts = CHAT_PATH, cached
    assert await ask(buyer, max_tokens=8)
    with pytest.raises(NodeUnreachable, match="does not match this request"):
        await ask(buyer, max_tokens=8, seed=2)
    front.acts = None
    assert await in_step(buyer)


def _busy(_: web.Response) -> web.Response:
    body = {"type": f"urn:viz:problem:{EngineOverloaded.code}", "code": EngineOverloaded.code}
    return web.Response(status=503, body=json.dumps(body))


def _of_another_node(refused: web.Response) -> web.Response:
    challenge = replace(Challenge.from_header(refused.headers[ANSWER]), node=address_of(7))
    headers = CIMultiDict(refused.headers)
    headers[ANSWER] = challenge.to_header()
    return web.Response(status=402, body=refused.body, headers=headers)


def _again(refused: web.Response) -> web.Response:
    return web.Response(status=402, body=refused.body, headers=refused.headers)


@pytest.mark.parametrize("written", [_busy, _of_another_node, _again])
async def test_a_refusal_of_an_answer_that_was_billed_accuses_nobody(
    front: Front, buyer: BuyerClient, written: Callable[[web.Response], web.Response]
) -> None:
    """The request was forgotten as refused, and its bill was one that no request accounts for."""
    refused: list[web.Response] = []

    async def refuses(forward: Forward) -> web.Response:
        answer = await forward()
        if answer.status == 402:
            refused.append(answer)
        elif refused:
            front.acts = None
            return written(refused[0])
        return answer

    front.path, front.acts = CHAT_PATH, refuses
    with pytest.raises((EngineOverloaded, NodeNotTrusted, NodeUnreachable)):
        await ask(buyer, max_tokens=8)
    assert await in_step(buyer)
    assert len(buyer.voucher_signer.standing.broken) == 1


@pytest.mark.parametrize("where", ["before", "after", "in one line", "taken out"])
async def test_another_scheme_beside_the_challenge_is_passed_over(
    front: Front, buyer: BuyerClient, where: str
) -> None:
    """Nobody could buy through a front that also asks for a password of its own."""

    async def adds(forward: Forward) -> web.Response:
        answer = await forward()
        if answer.status == 402:
            mine, theirs = 'Basic realm="a, b"', answer.headers.popone(ANSWER)
            made = {
                "before": [mine, theirs],
                "after": [theirs, mine],
                "in one line": [f"{mine}, {theirs}, Negotiate"],
                "taken out": [],
            }
            for each in made[where]:
                answer.headers.add(ANSWER, each)
        return answer

    front.path, front.acts = CHAT_PATH, adds
    if where == "taken out":
        with pytest.raises(NodeRefused, match="without the Payment challenge"):
            await ask(buyer, max_tokens=8)
    else:
        assert await ask(buyer, max_tokens=8)
    front.acts = None
    assert await in_step(buyer)


def _receipts_twice(raw: bytes) -> bytes:
    at = raw.rindex(b"event: payment-receipt")
    end = raw.index(b"\n\n", at) + 2
    return raw[:end] + raw[at:]


HARMLESS: dict[str, Written] = {
    "the bill twice": _receipts_twice,
    "all of it twice": lambda raw: raw + raw,
    "a page at the end": lambda raw: raw + b"\n\n<html>504</html>\n\n",
    "the usual name of an event": lambda raw: raw.replace(
        b'data: {"id"', b'event: message\ndata: {"id"'
    ),
}
CHANGED: dict[str, Written] = {
    "an end before its time": lambda raw: b"data: [DONE]\n\n" + raw,
    "a letter": lambda raw: raw.replace(b'"content":"', b'"content":"x', 2),
    "a byte of the bill": lambda raw: re.sub(rb'("signature":"0x)(..)', another_byte, raw),
}


@pytest.mark.parametrize("how", HARMLESS)
async def test_a_repeated_event_bills_nothing_twice(
    front: Front, buyer: BuyerClient, how: str
) -> None:
    """The same bill twice in one stream was "the node bills one request twice", for good."""
    front.path, front.written = CHAT_PATH, HARMLESS[how]
    assert await ask(buyer, max_tokens=8)
    assert front.written is None and await in_step(buyer)


@pytest.mark.parametrize("how", CHANGED)
async def test_a_text_that_was_changed_on_the_way_accuses_nobody_for_good(
    front: Front, buyer: BuyerClient, how: str
) -> None:
    """Text is not signed: a bill that does not fit it is that of an answer that broke off."""
    front.path, front.written = CHAT_PATH, CHANGED[how]
    with pytest.raises((NodeUnreachable, NodeRefused)):
        await ask(buyer, max_tokens=8)
    assert front.written is None and await in_step(buyer)
    assert len(buyer.voucher_signer.standing.broken) == 1


async def test_a_node_that_changes_its_answers_itself_is_left_after_three_bills(
    front: Front, buyer: BuyerClient
) -> None:
    """A lying node can look like a bad front: what it gets for that is bounded."""
    front.path = CHAT_PATH
    for number in range(BROKEN_ALLOWED):
        assert not buyer.voucher_signer.fault
        front.written = CHANGED["a letter"]
        with pytest.raises((NodeUnreachable, NodeNotTrusted)):
            await ask(buyer, max_tokens=8, seed=number)
    signed = buyer.channel.signed_units(ADAPTER)
    with pytest.raises(NodeNotTrusted, match="nothing more"):
        await ask(buyer, max_tokens=8, seed=9)
    assert buyer.channel.signed_units(ADAPTER) == signed
    assert buyer.channel.seq == BROKEN_ALLOWED


async def test_an_earlier_view_of_the_channel_is_passed_over(
    front: Front, buyer: BuyerClient
) -> None:
    """One from before the deposit told the buyer to open a channel, until its process ended."""
    kept: list[web.Response] = []

    async def cached(forward: Forward) -> web.Response:
        kept.append(await forward())
        assert isinstance(kept[0].body, bytes)
        old = {
            **json.loads(kept[0].body),
            "payer": ZERO_ADDRESS,
            "deposit": "0",
            "seq": 0,
            "lines": [],
        }
        return web.json_response(old)

    assert await ask(buyer, max_tokens=8)
    before = buyer.channel
    front.path, front.acts = CHANNEL_PATH.format(signer=buyer.signer), cached
    await buyer.sync()
    assert (buyer.channel.payer, buyer.channel.deposit_units) == (before.payer, DEPOSIT)
    front.acts = None
    assert kept and await in_step(buyer)
