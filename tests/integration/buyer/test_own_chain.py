"""What a buyer knows of its channel from its own chain, and what it believes a node without one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import FakeClock
from tests.integration.api.harness import ADAPTER, DEPOSIT, PAYER_KEY, PRICE, Node
from tests.integration.buyer.conftest import buying

from viz.buyer.channels import sync as channel_sync
from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.domain.ports.chain import ChainReader, ChannelState
from viz.errors import (
    ChainUnreachable,
    ChannelClosing,
    DepositExceeded,
    InvalidRequest,
    NodeNotTrusted,
    TransactionFailed,
)
from viz.protocol.messages import ChannelView

OTHER_KEY = b"\x77" * 32
PAYER = public_address(PAYER_KEY)


def chat(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "When is high tide?"}]
    return {"model": f"viz-adapter-{ADAPTER}", "messages": messages, "max_tokens": 24, **more}


async def ask(client: BuyerClient, **more: Any) -> int:
    async with client.ask(chat(**more)) as answer:
        async for _ in answer:
            pass
    assert answer.cost_units
    return answer.cost_units


def lying(client: BuyerClient, monkeypatch: pytest.MonkeyPatch, **lies: Any) -> None:
    """Have the node lie of the channel, in every answer that tells of it."""

    def turned(call: Any) -> Any:
        async def told(*given: Any) -> ChannelView:
            view: ChannelView = await call(*given)
            return replace(view, **lies)

        return told

    for name in ("channel", "voucher", "deposit"):
        monkeypatch.setattr(client.api, name, turned(getattr(client.api, name)))


def on_chain(node: Node, client: BuyerClient) -> ChannelState:
    return node.chain.channels[client.signer, node.chain.address]


LIES: list[dict[str, Any]] = [
    {"deposit_units": 10**12},
    {"deposit_units": 0},
    {"payer": public_address(OTHER_KEY)},
    {"settled_units": 12_345},
    {"close_at_s": 1_900_000_000},
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: next(iter(lie)))
async def test_a_node_cannot_lie_about_what_the_buyers_chain_says(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]
) -> None:
    """Deposit, payer, settled total and the close are read; answers are paid for as before."""
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        lying(client, monkeypatch, **lie)
        for _ in range(2):
            await ask(client)
            await node.parts.settlement.step(force=True)
            await client.sync()
            seen = on_chain(node, client)
            assert (client.channel.deposit_units, client.channel.settled_units) == (
                seen.deposit_units,
                seen.settled_units,
            )
            assert (client.channel.payer, client.channel.close_at_s) == (PAYER, 0)


async def test_a_deposit_that_the_chain_has_is_there_whatever_the_node_says(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that denies a deposit has it asked for a second time; the chain ends that."""
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        lying(client, monkeypatch, deposit_units=0, payer="0x" + "00" * 20)
        channel = await client.open_channel(PAYER_KEY, DEPOSIT)
        assert channel.deposit_units == DEPOSIT == on_chain(node, client).deposit_units


@pytest.mark.parametrize("lie", [*LIES[1:2], *LIES[3:]], ids=lambda lie: next(iter(lie)))
async def test_a_lie_that_was_told_without_a_chain_ends_with_one(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]
) -> None:
    """Once --rpc is given the chain counts, and the channel is paid from as before."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        await ask(client)
        signed = client.channel.total_units
        told = {name: signed if name == "settled_units" else value for name, value in lie.items()}
        with monkeypatch.context() as untrue:
            lying(client, untrue, **told)
            await client.sync()
        assert all(getattr(client.channel, name) == value for name, value in told.items())
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        await ask(client)
        await client.sync()
        seen, channel = on_chain(node, client), client.channel
        assert (channel.deposit_units, channel.settled_units) == (DEPOSIT, 0)
        assert (channel.deposit_units, channel.close_at_s) == (seen.deposit_units, 0)
        assert channel.total_units > signed
    async with buying(node, tmp_path / "b") as client:
        await ask(client)
        assert client.channel.limit_units == DEPOSIT


@pytest.mark.parametrize("restart", [False, True])
async def test_without_a_chain_no_more_is_believed_than_was_signed_for(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    """A deposit that was never made is not shown and not signed against."""
    small = PRICE.amount_units(400, 60)
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, small)
        if not restart:
            await cannot_be_made_to_overspend(client, monkeypatch, small)
    if restart:
        async with buying(node, tmp_path / "b") as client:
            await cannot_be_made_to_overspend(client, monkeypatch, small)


async def cannot_be_made_to_overspend(
    client: BuyerClient, monkeypatch: pytest.MonkeyPatch, signed_for: int
) -> None:
    lying(client, monkeypatch, deposit_units=10**12)
    with pytest.raises(DepositExceeded):
        for _ in range(20):
            await ask(client)
            await client.sync()
            assert client.channel.limit_units == signed_for
    assert client.channel.total_units <= signed_for
    lying(client, monkeypatch, payer=public_address(OTHER_KEY))
    with pytest.raises(NodeNotTrusted, match="signed no deposit"):
        await client.sync()


async def test_two_deposits_are_both_believed(node: Node, tmp_path: Path) -> None:
    """What was signed for is the sum: a top-up is not cut to the first deposit."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        channel = await client.open_channel(PAYER_KEY, DEPOSIT // 2)
        assert channel.deposit_units == DEPOSIT + DEPOSIT // 2


@pytest.mark.parametrize("own_chain", [False, True])
async def test_a_deposit_into_a_closing_channel_is_refused_before_it_is_signed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_chain: bool
) -> None:
    """Settlement keeps it until the withdrawal: nothing is signed, and the time is said."""
    chain = {"chain": node.chain} if own_chain else {}
    async with buying(node, tmp_path / "b", **chain) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        if own_chain:
            place, seen = (client.signer, node.chain.address), on_chain(node, client)
            node.chain.channels[place] = replace(seen, close_at=1_800_086_400)
        else:
            lying(client, monkeypatch, close_at_s=1_800_086_400)
        balances = dict(node.chain.balances)
        with pytest.raises(ChannelClosing, match=r"2027-01-16 08:00:00 UTC.*Nothing was signed"):
            await client.open_channel(PAYER_KEY, DEPOSIT)
        assert node.chain.balances == balances
        assert not list((tmp_path / "b").rglob("deposit.json"))
        assert client.channel.close_at_s == 1_800_086_400


async def test_a_close_that_is_not_confirmed_yet_counts(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the buyer's own chain says it before the confirmation depth does."""
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        confirmed = on_chain(node, client)

        async def channel(*_: Any, confirmed_: ChannelState = confirmed, **how: Any) -> Any:
            return confirmed_ if how.get("confirmed", True) else replace(confirmed_, close_at=9)

        monkeypatch.setattr(node.chain, "channel", channel)
        with pytest.raises(ChannelClosing):
            await client.open_channel(PAYER_KEY, DEPOSIT)


async def test_only_the_wallet_that_opened_a_channel_adds_to_it(
    node: Node, buyer: BuyerClient
) -> None:
    """Settlement refuses another payer: it is said before that wallet signs."""
    node.chain.balances[public_address(OTHER_KEY)] = 10**9
    with pytest.raises(InvalidRequest, match=r"only the wallet.*Nothing was signed"):
        await buyer.open_channel(OTHER_KEY, DEPOSIT)
    assert node.chain.balances[public_address(OTHER_KEY)] == 10**9


@pytest.mark.parametrize("seconds", [-86_400, -61, -60, -55, 0, 55, 60, 86_400])
async def test_clocks_may_differ_by_as_much_on_either_side(
    node: Node, tmp_path: Path, seconds: int
) -> None:
    """Within the tolerance an answer is paid for; beyond it the clock is named."""
    clock = FakeClock(node.clock.now + seconds)
    async with buying(node, tmp_path / "b", clock=clock, chain=node.chain) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        if abs(seconds) <= 60:
            assert await ask(client) and await ask(client)
        else:
            with pytest.raises(NodeNotTrusted, match="this machine's clock shows"):
                await ask(client)


async def test_two_deposits_are_never_out_at_once(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that says "it failed" may relay it later: until it is void no other one is signed."""
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        real = client.api.deposit
        sent: list[Any] = []

        async def failed(deposit: Any) -> ChannelView:
            sent.append(deposit)
            raise TransactionFailed("the transaction reverted")

        monkeypatch.setattr(client.api, "deposit", failed)
        with pytest.raises(TransactionFailed):
            await client.open_channel(PAYER_KEY, 500_000)
        node.chain.balances[public_address(OTHER_KEY)] = 10**9
        for key, units in ((PAYER_KEY, 300_000), (OTHER_KEY, 500_000)):
            with pytest.raises(InvalidRequest, match=r"0\.5.* until 20.* UTC"):
                await client.open_channel(key, units)
        assert len(sent) == 1
        monkeypatch.setattr(client.api, "deposit", real)
        node.clock.now += 3_600 + 601
        await client.open_channel(PAYER_KEY, 300_000)
        await client.open_channel(PAYER_KEY, 200_000)
        assert on_chain(node, client).deposit_units == 500_000


@pytest.mark.parametrize("told", [0, DEPOSIT // 2])
@pytest.mark.parametrize("relayed", [False, True])
async def test_whether_a_deposit_arrived_is_the_chains_word_once_there_is_one(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int, relayed: bool
) -> None:
    """Signed while a node denied what was there: with --rpc it counts as arrived by its nonce, so
    it is neither believed too early, nor waited for once it is there."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        real = client.api.deposit

        async def kept_back(deposit: Any) -> ChannelView:
            if relayed:
                await real(deposit)
            raise TransactionFailed("the transaction reverted")

        with monkeypatch.context() as untrue:
            lying(client, untrue, deposit_units=told)
            untrue.setattr(client.api, "deposit", kept_back)
            with pytest.raises(TransactionFailed):
                await client.open_channel(PAYER_KEY, DEPOSIT)
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        await client.sync()
        assert client.channel.deposit_units == (2 if relayed else 1) * DEPOSIT
        channel = await client.open_channel(PAYER_KEY, DEPOSIT)
        assert channel.deposit_units == on_chain(node, client).deposit_units == 2 * DEPOSIT
        assert not list((tmp_path / "b").rglob("deposit.json"))


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_chain_that_is_away_stops_no_question(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """After one answer that was left, each question failed until the buyer's own endpoint was back.

    A deposit still wants the chain: it is not made on an old reading.
    """
    monkeypatch.setattr(channel_sync, "CHAIN_WAIT_S", 0.1)
    endpoint = Endpoint(node.chain)
    async with buying(node, tmp_path, chain=cast(ChainReader, endpoint)) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        await ask(client)
        endpoint.away = "hangs" if hangs else "fails"
        async with asyncio.timeout(20):
            async with client.ask(chat(seed=1)) as answer:
                await anext(aiter(answer))
            for number in range(3):
                await ask(client, seed=2 + number)
        endpoint.away = "fails"
        with pytest.raises(ChainUnreachable):
            await client.open_channel(PAYER_KEY, DEPOSIT)
        endpoint.away = ""
        await client.sync()
        assert not client.voucher_signer.fault


class Endpoint:
    """A buyer's own endpoint, which may be ``away``: it then ``fails`` or ``hangs``."""

    def __init__(self, chain: object) -> None:
        self._chain, self.away = chain, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def channel(self, *of: Any, **more: Any) -> Any:
        if self.away == "hangs":
            await asyncio.sleep(60)
        if self.away:
            raise ChainUnreachable("the endpoint does not answer")
        return await cast(Any, self._chain).channel(*of, **more)
