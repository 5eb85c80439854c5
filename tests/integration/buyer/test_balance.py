"""A deposit that the wallet cannot pay is refused before it is signed, and hinders no other one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api.harness import DEPOSIT, PAYER_KEY, Node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_network import Network, chat, network, read

from viz.buyer.network import pool
from viz.buyer.wallet.wallet import KeyWallet
from viz.client.node_client import NodeClient
from viz.domain.eip712 import public_address
from viz.errors import (
    BalanceTooLow,
    ChainUnreachable,
    InvalidRequest,
    NodeRefused,
    NodeUnreachable,
    TooManyQuestions,
    TransactionFailed,
)

__all__ = ["network"]
PAYER = public_address(PAYER_KEY)


def has(node: Node, units: int) -> None:
    """Let the payer have this balance, and the node read it again."""
    node.chain.balances[PAYER] = units
    node.clock.now += 60


def signed_in(home: Path) -> list[Path]:
    return list(home.rglob("deposit*.json"))


def saying(monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    """Let every node state this balance of every wallet."""
    ask = NodeClient.account

    async def stated(api: NodeClient, account: Any) -> Any:
        return replace(await ask(api, account), token_units=units)

    monkeypatch.setattr(NodeClient, "account", stated)


@pytest.mark.parametrize("own_chain", [True, False], ids=["own chain", "the node's word"])
@pytest.mark.parametrize("before", [0, 300_000], ids=["opening", "top-up"])
async def test_a_deposit_above_the_balance_is_refused_before_it_is_signed(
    node: Node, tmp_path: Path, before: int, *, own_chain: bool
) -> None:
    """The wallet of another purpose signed, the chain refused, and for 70 minutes the buyer could
    deposit nothing else: the signature might still have been used."""
    home = tmp_path / "buyer"
    async with buying(node, home, **({"chain": node.chain} if own_chain else {})) as client:
        if before:
            await client.open_channel(PAYER_KEY, before)
            client.spending._ledger.drop_deposits_aside(10**12)
        has(node, 700_000)
        asked = rf"{PAYER} has 0\.700000 vUSD, and the deposit is 0\.700001 vUSD.*Nothing was"
        with pytest.raises(BalanceTooLow, match=asked) as refused:
            await client.open_channel(PAYER_KEY, 700_001)
        assert ("--rpc says" in refused.value.detail) == own_chain
        assert not signed_in(home) and node.chain.balances[PAYER] == 700_000
        channel = await client.open_channel(PAYER_KEY, 700_000)
        assert channel.deposit_units == 700_000 + before


async def test_a_refused_deposit_says_what_its_signature_still_does(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The balance went between the look and the block: the same command sends the same signature,
    which counts once, and no other is signed beside it."""
    home = tmp_path / "buyer"
    node.chain.balances[PAYER] = 6_000
    saying(monkeypatch, DEPOSIT)
    async with buying(node, home) as client:
        said = r"balance too low.*1\.000000 vUSD from 0x\w+ is signed.* until 20.* UTC.*same amount"
        for _ in range(2):
            with pytest.raises(TransactionFailed, match=said):
                await client.open_channel(PAYER_KEY, DEPOSIT)
        with pytest.raises(InvalidRequest, match=r"ask for the same again, or wait until"):
            await client.open_channel(PAYER_KEY, 5_000)
        has(node, 3 * DEPOSIT)
        assert (await client.open_channel(PAYER_KEY, DEPOSIT)).deposit_units == DEPOSIT
        assert node.chain.balances[PAYER] == 2 * DEPOSIT


async def test_a_node_that_understates_a_balance_gets_no_deposit_and_nothing_else(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its word prevents a signature, and only its own: with an own chain it is not asked."""
    saying(monkeypatch, 0)
    async with buying(node, tmp_path / "buyer") as client:
        with pytest.raises(BalanceTooLow, match=r"the node says.*if the node is wrong.*--rpc"):
            await client.open_channel(PAYER_KEY, DEPOSIT)
        assert not signed_in(tmp_path)
    async with buying(node, tmp_path / "buyer", chain=node.chain) as client:
        assert (await client.open_channel(PAYER_KEY, DEPOSIT)).deposit_units == DEPOSIT


@pytest.mark.parametrize("refusal", [TooManyQuestions, NodeRefused, NodeUnreachable])
async def test_who_uses_up_a_nodes_looks_prevents_no_deposit(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]
) -> None:
    """Strangers ask for accounts too, and a server before the node may not pass on that path."""

    async def refused(*_: Any) -> Any:
        raise refusal("not now")

    monkeypatch.setattr(NodeClient, "account", refused)
    async with buying(node, tmp_path / "buyer") as client:
        assert (await client.open_channel(PAYER_KEY, DEPOSIT)).deposit_units == DEPOSIT


async def test_a_node_whose_chain_is_away_has_nothing_signed_for_it(
    node: Node, tmp_path: Path
) -> None:
    """It could not have relayed the deposit."""
    async with buying(node, tmp_path / "buyer") as client:
        await client.sync()
        node.chain.down = True
        with pytest.raises(ChainUnreachable):
            await client.open_channel(PAYER_KEY, DEPOSIT)
        assert not signed_in(tmp_path)


async def test_a_refused_balance_counts_as_no_deposit_of_the_network(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's word on the wallet sends the buyer on to the next node, and an empty wallet used up
    the deposits that a process may make."""
    monkeypatch.setattr(pool, "MAX_DEPOSITS", 1)
    poor = KeyWallet(b"\x55" * 32)
    async with network.buyer(wallet=poor) as buyer:
        for _ in range(2):
            with pytest.raises(BalanceTooLow, match=poor.address):
                await read(buyer, chat())
        network.chain.balances[poor.address] = 10**9
        assert (await read(buyer, chat())).text
