"""`viz channel renew`: whatever state the files are in, it ends, and it loses no money or file."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.integration.api.harness import DEPOSIT, NODE_KEY, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_untrue_node import ask

from viz.buyer.channels.renewal import Renewed, renew
from viz.buyer.wallet.signing import AUTHORIZATION_VALID_S, CLOCKS_DIFFER_S
from viz.client.node_client import NodeClient
from viz.domain.eip712 import public_address
from viz.domain.units import Address
from viz.errors import ChannelUnknown, InvalidRequest
from viz.protocol.credential import Deposit

PAYER = public_address(PAYER_KEY)
ARRIVES_WITHIN_S = AUTHORIZATION_VALID_S + CLOCKS_DIFFER_S


class Place:
    """A buyer's folder and a node on one chain."""

    def __init__(self, node: Node, home: Path) -> None:
        self.node, self.home, self.chain = node, home, node.chain

    def buyer(self, *, rpc: bool = False) -> Any:
        return buying(self.node, self.home, chain=self.chain if rpc else None)

    async def opened(self, *, rpc: bool = False) -> tuple[Address, Path]:
        async with self.buyer(rpc=rpc) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
            return client.signer, client.directory

    async def closed(self) -> None:
        async with self.buyer() as client:
            await client.close_channel(PAYER_KEY)

    async def renew(self, signer: Address, chain: FakeChain | None = None) -> Renewed:
        return await renew(
            self.home, DEPLOYMENT, chain or self.chain, signer, self.node.chain.address
        )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node") as node:
        node.chain.balances[PAYER] = 10**9
        yield Place(node, tmp_path / "buyer")


async def test_a_copy_of_what_was_set_aside_is_set_aside_beside_it(place: Place) -> None:
    """A backup from before the first renewal was put back, and the second one failed: the folder
    had its name already."""
    signer, directory = await place.opened()
    shutil.copytree(directory, place.home.parent / "copy")
    await place.closed()
    asides = [(await place.renew(signer)).aside]
    for _ in range(2):
        shutil.copytree(place.home.parent / "copy", directory)
        (directory / "mark").write_text(str(len(asides)))
        asides.append((await place.renew(signer)).aside)
    assert [each.name for each in asides[1:]] == [f"{asides[0].name}.2", f"{asides[0].name}.3"]
    assert not (asides[0] / "mark").exists() and (asides[1] / "mark").read_text() == "1"


@pytest.mark.parametrize("rpc", [True, False], ids=["own chain", "no chain"])
async def test_a_channel_that_the_chain_never_had_is_set_aside(place: Place, *, rpc: bool) -> None:
    """A development chain was begun anew: every way that the errors named ended in "unknown". While
    a deposit may still arrive on the new chain, its key is needed."""
    signer, directory = await place.opened(rpc=rpc)
    anew = FakeChain(NODE_KEY)
    if not rpc:
        with pytest.raises(InvalidRequest, match=r"may still arrive until .*UTC"):
            await place.renew(signer, anew)
        anew.clock.now += ARRIVES_WITHIN_S + 1
    done = await place.renew(signer, anew)
    assert not done.on_chain and (done.aside / "session.key.json").exists()
    assert not directory.exists()


async def test_a_channel_that_is_not_confirmed_yet_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest block may be replaced, so it alone moves nothing."""
    signer, directory = await place.opened(rpc=True)
    await place.closed()
    read = place.chain.channel

    async def newest(*names: Any, confirmed: bool = True) -> Any:
        return None if confirmed else await read(*names)

    monkeypatch.setattr(place.chain, "channel", newest)
    with pytest.raises(ChannelUnknown, match="opening is confirmed"):
        await place.renew(signer)
    assert directory.exists()


async def test_the_files_of_another_key_are_not_set_aside(place: Place) -> None:
    """--signer of an older, empty channel would have moved the files of the one that has money."""
    former, directory = await place.opened()
    await place.closed()
    await place.renew(former)
    signer, directory = await place.opened()
    with pytest.raises(InvalidRequest, match=f"{signer}.*--signer"):
        await place.renew(former)
    assert directory.exists()


@pytest.mark.parametrize("relayed", [True, False])
async def test_a_deposit_that_only_the_node_confirmed_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, relayed: bool
) -> None:
    """The node said "confirmed" and kept the authorization: the channel was closed and set aside at
    once, and then the deposit was relayed into it."""
    signer, directory = await place.opened()
    kept: list[Deposit] = []
    view, relay = NodeClient.channel, NodeClient.deposit

    async def said(*asked: Any) -> Any:
        seen = await view(*asked)
        return replace(seen, deposit_units=seen.deposit_units + DEPOSIT)

    async def keep(api: NodeClient, deposit: Deposit) -> Any:
        kept.append(deposit)
        return await said(api, signer, await client.token())

    async with place.buyer() as client:
        monkeypatch.setattr(NodeClient, "channel", said)
        monkeypatch.setattr(NodeClient, "deposit", keep)
        await client.open_channel(PAYER_KEY, DEPOSIT)
        monkeypatch.setattr(NodeClient, "channel", view)
        monkeypatch.setattr(NodeClient, "deposit", relay)
        await client.close_channel(PAYER_KEY)
    assert not (directory / "deposit.json").exists(), "the next top-up is not hindered"
    with pytest.raises(InvalidRequest, match="may still arrive"):
        await place.renew(signer)
    if not relayed:
        place.chain.clock.now += ARRIVES_WITHIN_S + 1
        assert (await place.renew(signer)).on_chain
        return
    place.chain.clock.now += 400  # until then the Close could close a new opening
    async with place.buyer() as client:
        await client.api.deposit(kept[0])
    with pytest.raises(InvalidRequest, match="are in the channel"):
        await place.renew(signer)
    assert directory.exists()


async def test_deposits_aside_are_dropped_when_they_can_no_longer_arrive(place: Place) -> None:
    """They are kept for the renewal alone, and no longer than it asks for them."""
    _, directory = await place.opened()
    assert len(list(directory.glob("deposit-*.json"))) == 1
    place.chain.clock.now += ARRIVES_WITHIN_S + 1
    await place.opened()
    assert len(list(directory.glob("deposit-*.json"))) == 1
