"""What strangers can make a node ask its chain: little, and never for a voucher's lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeClock
from tests.integration.api.harness import ADAPTER, Buyer, Node, running_node

from viz.api.context import PAYMENTS, QUESTIONS
from viz.api.rate_limit import ALL_TIMES, MINUTE_S, RateLimit
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import public_address, sign_compact
from viz.domain.node_channel import MAX_UNSPENT_LINES, PresentedVoucher
from viz.domain.units import ZERO_HASH, AdapterId, Units
from viz.domain.usage import UsageLine
from viz.errors import TooManyQuestions
from viz.protocol import payment
from viz.protocol.owner_actions import ACCOUNT_PATH


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


def padded(buyer: Buyer, ids: range, units: Units = 1) -> PresentedVoucher:
    """Sign a voucher with a line for each of the ids."""
    lines = tuple(UsageLine(AdapterId(each), units) for each in ids)
    row = SignedVoucher(0, ZERO_HASH, lines, b"")
    digest = buyer.domain.digest(row.voucher(buyer.node.chain.address))
    row = SignedVoucher(0, ZERO_HASH, lines, sign_compact(buyer.key, digest))
    node = buyer.node.chain.address
    return PresentedVoucher(DEPLOYMENT.chain_id, DEPLOYMENT.settlement, buyer.signer, node, row)


async def test_a_voucher_without_a_channel_costs_the_chain_little(node: Node) -> None:
    """255 invented adapters on an invented channel are not 255 questions, and once is enough."""
    buyer = Buyer(node)
    for questions in (2, 0):
        before = node.chain.reads
        status, problem = await buyer.pay(payment.VOUCHERS_PATH, padded(buyer, range(1_000, 1_255)))
        assert (status, problem["code"]) == (402, "channel-unknown")
        assert node.chain.reads - before == questions


async def test_a_voucher_pays_for_what_is_sold_here(node: Node) -> None:
    """No line is looked up on chain: the adapter is on offer, or the voucher is refused."""
    buyer = await Buyer(node).ready()
    (record,) = node.parts.catalogue.records()
    sold = range(1_000, 1_001 + MAX_UNSPENT_LINES)
    for adapter_id in map(AdapterId, sold):
        await node.engine.add_adapter(adapter_id, Path(record.path))
        await node.parts.catalogue.add(replace(record, adapter_id=adapter_id))
    node.chain.put_adapter(AdapterId(99), ZERO_HASH)
    before = node.chain.reads
    for ids, code in ((range(99, 100), "unknown-adapter"), (sold, "invalid-request")):
        status, problem = await buyer.pay(payment.VOUCHERS_PATH, padded(buyer, ids))
        assert problem["code"] == code and status in (400, 404)
    assert node.chain.reads == before
    assert (await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 50, 0)))[0] == 200


async def test_only_a_signed_voucher_has_the_deposit_read_again(node: Node) -> None:
    """Who names somebody else's channel does not make the chain answer for it."""
    buyer, thief = await Buyer(node).ready(), Buyer(node, key=b"\x55" * 32)
    thief.signer = buyer.signer
    node.clock.now += 2
    before = node.chain.reads
    for _ in range(3):
        dear = padded(thief, range(ADAPTER, ADAPTER + 1), 10**7)
        assert (await thief.pay(payment.VOUCHERS_PATH, dear))[1]["code"] == "invalid-signature"
    assert node.chain.reads == before


async def test_strangers_questions_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking about any number of channels ends at the bound, and who pays is not held up."""
    buyer = await Buyer(node).ready()
    assert (await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 50, 0)))[0] == 200
    monkeypatch.setitem(node.app._state, QUESTIONS, RateLimit(node.clock, 5))
    before, codes = node.chain.reads, []
    for number in range(20):
        stranger = public_address(bytes([0x60 + number]) * 32)
        path = payment.CHANNEL_PATH.format(signer=stranger)
        status, problem, headers = await buyer.call("GET", path)
        codes.append(status)
    assert codes == [200] * 5 + [429] * 15 and node.chain.reads - before == 10
    assert problem["code"] == "too-many-questions"
    assert int(headers["Retry-After"]) == problem["retryAfter"] <= MINUTE_S
    assert (await buyer.call("GET", f"/viz/v1/adapters/{ADAPTER}"))[0] == 429
    assert (await buyer.call("GET", payment.NODE_PATH))[0] == 200, "read once for everybody"
    newcomer = Buyer(node, key=b"\x55" * 32)
    await newcomer.open()
    monkeypatch.setitem(node.app._state, PAYMENTS, RateLimit(node.clock, 1))
    late = Buyer(node, key=b"\x56" * 32)
    assert (await late.pay(payment.CHANNELS_PATH, late.deposit()))[0] == 200
    refused = await late.pay(payment.CHANNELS_PATH, late.deposit(opening=False))
    assert refused[1]["code"] == "too-many-questions"
    assert (await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 5_000, 0)))[0] == 200
    assert (await buyer.ask()).status == 200
    node.clock.now += MINUTE_S
    assert (await late.pay(payment.CHANNELS_PATH, late.deposit(opening=False)))[0] == 200


async def test_an_account_counts_as_its_reads(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at accounts makes the chain answer no more often than other questions do."""
    monkeypatch.setitem(node.app._state, QUESTIONS, RateLimit(node.clock, 8))
    codes = []
    for number in range(4):
        stranger = public_address(bytes([0x60 + number]) * 32)
        path = ACCOUNT_PATH.format(account=stranger)
        codes.append((await Buyer(node).call("GET", path))[0])
    assert codes == [200, 200, 429, 429]


def test_ten_busy_addresses_leave_room_for_the_quiet() -> None:
    """Who uses up what all have together does not keep a newcomer from its first questions."""
    questions = RateLimit(FakeClock(), 120)
    for number in range(ALL_TIMES):
        for _ in range(120):
            questions.admit(f"10.0.0.{number}")
    for _ in range(2):
        questions.admit("10.0.1.1")
    with pytest.raises(TooManyQuestions):
        questions.admit("10.0.1.1")
    questions.admit("10.0.1.2")


def test_many_addresses_are_bounded_together() -> None:
    """Any number of addresses get no more than ten busy and ten quiet do, until the next minute."""
    clock = FakeClock()
    questions = RateLimit(clock, 3)
    for number in range(2 * 3 * ALL_TIMES):
        questions.admit(f"10.0.0.{number}")
    with pytest.raises(TooManyQuestions, match="try again in 60 s"):
        questions.admit("10.0.1.1")
    clock.now += MINUTE_S
    questions.admit("10.0.1.1")
