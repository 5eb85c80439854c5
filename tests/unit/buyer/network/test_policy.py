"""Which node is asked first: price, latency and reliability, each with its weight."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.chain import address_of

from viz.buyer.ledger.network_record import NodeHistory
from viz.buyer.network.policy import RECENT_S, Request, ranked
from viz.domain.units import Address
from viz.protocol.market import MarketOffer
from viz.protocol.payment import CHAT_PATH

A, B = address_of(0xA), address_of(0xB)
NOW_S = 1_000_000
REQUEST = Request(100, 100)
UNKNOWN = NodeHistory()


def offer(node: Address, units: int, latency_ms: int = 0) -> MarketOffer:
    return MarketOffer(node, f"http://{node}", units, 3 * units, 2048, latency_ms, NOW_S)


def first(
    a: tuple[int, NodeHistory], b: tuple[int, NodeHistory], paid: set[Any] | None = None
) -> Address:
    offers = [offer(A, a[0]), offer(B, b[0])]
    histories = {A: a[1], B: b[1]}
    funded = {A, B} if paid is None else paid
    return ranked(offers, REQUEST, histories, funded=funded, now_s=NOW_S)[0].node


M = 1_000_000


@pytest.mark.parametrize(
    ("a", "b", "wins"),
    [
        ((2 * M, UNKNOWN), (M, UNKNOWN), B),
        ((M, NodeHistory(3_000)), (M, NodeHistory(300)), B),
        # Twice the price for a fourth of the wait is even; for an eighth it is worth it.
        ((2 * M, NodeHistory(100)), (M, NodeHistory(1_000)), A),
        ((2 * M, NodeHistory(300)), (M, NodeHistory(600)), B),
        # Below what anybody feels no node is faster.
        ((2 * M, NodeHistory(1)), (M, NodeHistory(49)), B),
        ((2 * M, UNKNOWN), (M, NodeHistory(failure=0.9)), A),
        ((16 * M, UNKNOWN), (M, NodeHistory(failure=1.0)), B),
        ((8 * M, UNKNOWN), (M, NodeHistory(failed_at_s=NOW_S - 1)), A),
        ((8 * M, UNKNOWN), (M, NodeHistory(failed_at_s=NOW_S - RECENT_S)), B),
        ((0, UNKNOWN), (M, UNKNOWN), A),
    ],
)
def test_the_lowest_score_is_first(
    a: tuple[int, NodeHistory], b: tuple[int, NodeHistory], wins: Address
) -> None:
    assert first(a, b) == wins


def test_a_deposit_that_is_there_is_used() -> None:
    """A slightly cheaper node is not worth another deposit; a much cheaper one is."""
    assert first((11 * M, UNKNOWN), (10 * M, UNKNOWN), {A}) == A
    assert first((20 * M, UNKNOWN), (10 * M, UNKNOWN), {A}) == B


def test_what_a_node_did_is_forgotten_by_what_it_does() -> None:
    """A node that was down for a day is asked again; one that fails on stays last."""
    history = NodeHistory()
    for _ in range(20):
        history = history.failed(NOW_S)
    assert history.failure > 0.95
    for _ in range(20):
        history = history.answered(200)
    assert history.failure < 0.05 and history.first_ms == 200


def test_a_request_can_cost_its_answer_once_and_its_prompt_at_each_node() -> None:
    """A long answer from one node held three times what it can cost: all of a day's limit."""
    request = Request(100, 2_000, most_prompt_tokens=300)
    one, other = offer(A, M), offer(B, 2 * M)
    assert request.most_units([one]) == 300 + 3 * 2_000
    assert request.most_units([one, other]) == 300 + 2 * 2_300 + 6 * 2_000 + 6 * 512
    body = {"model": "m", "messages": [{"role": "user", "content": "é" * 400}], "max_tokens": 9}
    found = Request.of(body, CHAT_PATH)
    assert found.most_prompt_tokens > 800 > found.prompt_tokens, "as its bytes, if need be"
