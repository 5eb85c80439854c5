"""A voucher that comes with the request that it pays: one round trip, and nothing weaker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node

from viz.domain.node_channel import PresentedVoucher
from viz.protocol import payment
from viz.protocol.credential import credential_to_header, voucher_to_text


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


def riding(presented: PresentedVoucher) -> dict[str, str]:
    return {payment.VOUCHER_HEADER: voucher_to_text(presented)}


async def test_a_request_that_carries_its_voucher_is_served_at_once(node: Node) -> None:
    """One request pays and is answered, and the voucher is on disk before the first token."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask(headers=riding(buyer.voucher(ADAPTER, 1_000, 0)), pays=False)
    assert (answer.status, answer.finish) == (200, "length"), answer.body
    assert answer.receipt is not None
    kept = await node.store.channel(buyer.signer)
    assert kept is not None and kept.lines[ADAPTER].accepted_units == 1_000


async def test_the_voucher_is_committed_before_the_request_is_judged(tmp_path: Path) -> None:
    """Its commit point is that of any voucher, and it comes before all that the request does."""
    points: list[str] = []
    async with running_node(tmp_path, hook=points.append) as node:
        buyer = await Buyer(node).ready()
        points.clear()
        answer = await buyer.ask(headers=riding(buyer.voucher(ADAPTER, 1_000, 0)), pays=False)
        assert answer.status == 200
        money = [point for point in points if point.partition(":")[0] in ("voucher", "receipt")]
        assert money == ["voucher:before", "voucher:after", "receipt:before", "receipt:after"]


async def test_a_voucher_that_was_overtaken_is_no_error(node: Node) -> None:
    """A later voucher of the channel came first: the request is judged by that one."""
    buyer = await Buyer(node).ready()
    first, second = buyer.voucher(ADAPTER, 500, 0), buyer.voucher(ADAPTER, 1_000, 0)
    for presented in (second, first):
        answer = await buyer.ask(headers=riding(presented), pays=False)
        assert answer.status == 200, answer.body
    kept = await node.store.channel(buyer.signer)
    assert kept is not None and kept.lines[ADAPTER].accepted_units == 1_000


async def test_a_stale_base_serves_nothing(node: Node) -> None:
    """After a claim the refusal names the new base, as on the route of vouchers."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    await node.parts.settlement.step(force=True)
    answer = await buyer.ask(headers=riding(buyer.voucher(ADAPTER, 5_000, 0)), pays=False)
    assert (answer.status, answer.body["code"]) == (409, "stale-voucher")
    kept = await node.store.channel(buyer.signer)
    assert kept is not None and answer.body["base"] == str(kept.base_units)


async def test_nobody_elses_voucher_is_taken(node: Node) -> None:
    """The voucher must be of the token's signer; nothing is taken and nothing served."""
    buyer = await Buyer(node).ready()
    other = await Buyer(node, key=b"\x44" * 32).ready()
    answer = await buyer.ask(headers=riding(other.voucher(ADAPTER, 1_000, 0)), pays=False)
    assert (answer.status, answer.body["code"]) == (400, "wrong-domain")
    for signer in (buyer.signer, other.signer):
        kept = await node.store.channel(signer)
        assert kept is None or not kept.lines


async def test_a_forged_or_unreadable_voucher_serves_nothing(node: Node) -> None:
    """A voucher on a request is checked like any other."""
    buyer = await Buyer(node).ready()
    forged = (await Buyer(node, key=b"\x44" * 32).ready()).voucher(ADAPTER, 1_000, 0)
    forged = PresentedVoucher(
        forged.chain_id, forged.contract, buyer.signer, forged.node, forged.row
    )
    answer = await buyer.ask(headers=riding(forged), pays=False)
    assert answer.body["code"] == "invalid-signature"
    deposit = credential_to_header(buyer.deposit()).partition(" ")[2]
    for text in ("%", deposit):
        answer = await buyer.ask(headers={payment.VOUCHER_HEADER: text}, pays=False)
        assert (answer.status, answer.body["code"]) == (400, "invalid-request")


async def test_too_little_is_answered_with_the_need(node: Node) -> None:
    """What the voucher pays is kept, and the 402 says what is missing."""
    buyer = await Buyer(node).ready()
    body = buyer.chat()
    required = (await buyer.need_of(body)).need
    assert required is not None
    presented = buyer.voucher(ADAPTER, required.required_units - 1, 0)
    status, _, headers = await buyer.call(
        "POST", payment.CHAT_PATH, body=body, headers=buyer.bearer(**riding(presented))
    )
    need = payment.Challenge.from_header(headers["WWW-Authenticate"]).need
    assert status == 402 and need is not None
    assert need.accepted_units == required.required_units - 1
    assert (await buyer.ask(body)).status == 200


async def test_a_repeated_request_takes_its_voucher_and_is_not_billed_again(node: Node) -> None:
    """An answer of 200 says that the voucher was taken, also where the answer was kept."""
    buyer = await Buyer(node).ready()
    key = {"Idempotency-Key": "once"}
    first = await buyer.ask(headers=riding(buyer.voucher(ADAPTER, 1_000, 0)) | key, pays=False)
    again = await buyer.ask(headers=riding(buyer.voucher(ADAPTER, 1_500, 0)) | key, pays=False)
    assert (first.status, again.status) == (200, 200)
    kept = await node.store.channel(buyer.signer)
    assert kept is not None and (kept.seq, kept.lines[ADAPTER].accepted_units) == (1, 1_500)
