"""A ledger was restored from an older copy, the node's or the buyer's: nobody pays into it blindly.

The buyer stops, is told what is wrong and which commands bring its money back, and they do. Nobody
is accused.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from contextlib import closing as closing_of
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.integration.api.harness import DEPOSIT, NODE_KEY, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_killed_mid_answer import cut
from tests.integration.buyer.test_untrue_node import ask

from viz.buyer.channels import closing
from viz.buyer.channels.renewal import renew
from viz.buyer.client import BuyerClient
from viz.buyer.control.commands import ChannelControl
from viz.buyer.ledger.folders import FORMER
from viz.buyer.wallet.wallet import KeyWallet
from viz.cli.buyer.channel import _closed
from viz.client.node_client import NodeClient
from viz.domain.eip712 import public_address
from viz.domain.units import Address
from viz.errors import BooksMismatch, ConfigError, InvalidRequest, NodeNotTrusted
from viz.local_socket import free_port

PAYER = public_address(PAYER_KEY)
WAYS = r"older than receipts.*`viz channel close`.*`viz channel leave`.*`viz channel renew`"


class Restored:
    """A node at one port whose ledger can be put back to an earlier state."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.chain = FakeChain(NODE_KEY)
        self.chain.balances[PAYER] = 10**9

    @asynccontextmanager
    async def node(self, name: str, **more: Any) -> AsyncIterator[Node]:
        (self.folder / name).mkdir(exist_ok=True)
        async with running_node(
            self.folder / name, chain=self.chain, port=self.port, **more
        ) as node:
            yield node

    def back_up(self) -> None:
        """Copy the ledger while the node runs, as docs/operating.md says."""
        (self.folder / "restored").mkdir()
        places = (self.folder / name / "ledger.db" for name in ("live", "restored"))
        with ExitStack() as ends:
            live, copy = (ends.enter_context(closing_of(connect(place))) for place in places)
            live.backup(copy)

    def buyer(self, node: Node, home: str = "buyer", *, rpc: bool = False) -> Any:
        chain = self.chain if rpc else None
        return buying(node, self.folder / home, origin=None, chain=chain)

    async def renew(self, signer: Address) -> Path:
        home = self.folder / "buyer"
        return (await renew(home, DEPLOYMENT, self.chain, signer, self.chain.address)).aside


@pytest.fixture
def place(tmp_path: Path) -> Restored:
    return Restored(tmp_path)


def billed(client: BuyerClient) -> int:
    return sum(client.channel.billed.values())


@pytest.mark.parametrize("rpc", [True, False], ids=["own chain", "no chain"])
@pytest.mark.parametrize("lost", [1, 3])
async def test_a_restored_nodes_buyer_stops_closes_and_begins_anew(
    place: Restored, *, rpc: bool, lost: int
) -> None:
    """Each question failed without the cause, a deposit went into the dead channel, and the close
    that returned more than was billed was refused. Nothing more is signed; the money comes back."""
    async with place.node("live") as node:
        async with place.buyer(node, rpc=rpc) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
            place.back_up()
            for number in range(lost):
                assert await ask(client, max_tokens=60, seed=number)
        await cut(node)
    async with place.node("restored") as node:
        async with place.buyer(node, rpc=rpc) as client:
            before = client.channel.total_units
            for _ in range(2):
                with pytest.raises(BooksMismatch, match=WAYS):
                    await ask(client, max_tokens=60, seed=9)
            with pytest.raises(BooksMismatch, match=WAYS):
                await client.open_channel(PAYER_KEY, DEPOSIT)
            assert client.channel.total_units == before and not client.voucher_signer.fault
            assert place.chain.balances[PAYER] == 10**9 - DEPOSIT
            control = ChannelControl(client)
            shown = await control.show()
            assert "older than receipts" in shown["mismatch"] and shown["signed"] == str(before)
            closed = await control.close(KeyWallet(PAYER_KEY))
            assert 0 < int(closed["settled"]) < int(closed["billed"]) == billed(client)
            assert place.chain.balances[PAYER] == 10**9 - int(closed["settled"])
            with pytest.raises(ConfigError, match="another process"):
                await place.renew(client.signer)
            former = client.signer
        aside = await place.renew(former)
        assert aside.parent.name == FORMER and (aside / "session.key.json").exists()
        async with place.buyer(node, rpc=rpc) as client:
            assert client.signer != former
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)


async def test_a_ledger_that_was_begun_anew_gives_the_deposit_back(place: Restored) -> None:
    """With --new-ledger the node gave up every voucher: the buyer is told the same, and the close
    returns all that was not claimed."""
    async with place.node("live") as node:
        async with place.buyer(node) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
        await cut(node)
    async with place.node("anew") as node, place.buyer(node) as client:
        with pytest.raises(BooksMismatch, match=WAYS):
            await ask(client, max_tokens=8)
        assert (await client.close_channel(PAYER_KEY)).close.settled_units == 0


async def test_a_buyer_that_runs_on_is_told_too(place: Restored) -> None:
    """The node was restored under a process that had read the channel before: the first voucher
    that is refused makes it look, before it signs more."""
    async with place.node("live") as node, place.buyer(node) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert await ask(client, max_tokens=8)
        place.back_up()
        for number in range(3):
            assert await ask(client, max_tokens=8, seed=number)
        await cut(node)
        async with place.node("restored"):
            with pytest.raises(BooksMismatch, match=WAYS):
                await ask(client, max_tokens=60, seed=8)
            signed = client.channel.total_units
            for number in range(3):
                with pytest.raises(BooksMismatch, match=WAYS):
                    await ask(client, max_tokens=60, seed=number)
            assert client.channel.total_units == signed and not client.voucher_signer.fault


async def test_a_node_that_numbers_receipts_anew_is_not_accused(place: Restored) -> None:
    """Restored, it serves on credit and gives the lost numbers to new receipts: after some of them
    the totals contradicted each other, and the honest node was distrusted for good."""
    async with place.node("live", credit_window_units=50_000) as node, place.buyer(node) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert await ask(client, max_tokens=8)
        place.back_up()
        for number in range(2):
            assert await ask(client, max_tokens=8, seed=number)
        await cut(node)
        async with place.node("restored", credit_window_units=50_000):
            assert await ask(client, max_tokens=8, seed=7)
            for number in range(4):
                with pytest.raises(BooksMismatch, match=WAYS):
                    await ask(client, max_tokens=8, seed=number)
            assert not client.voucher_signer.fault


async def test_a_view_that_was_kept_on_the_way_stops_nothing(
    place: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in front of the node hands out a view of yesterday: the node has the receipt that it
    signed, so its ledger is not older."""
    async with place.node("live") as node:
        async with place.buyer(node) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
            kept = await client.api.channel(client.signer, await client.token())
            assert await ask(client, max_tokens=8, seed=2)

        async def view(*_: object) -> Any:
            return kept

        monkeypatch.setattr(NodeClient, "channel", view)
        async with place.buyer(node) as client:
            assert client.channel.seq > kept.seq
            assert await ask(client, max_tokens=8, seed=3)


@pytest.mark.parametrize("rpc", [True, False], ids=["own chain", "no chain"])
async def test_a_restored_node_that_claimed_since_names_the_way_out(
    place: Restored, *, rpc: bool
) -> None:
    """Its ledger has no claim that ends where the chain is: each refusal says what brings the money
    back, which was nowhere."""
    way = r"`viz channel leave`.*`viz channel renew`"
    async with place.node("live") as node:
        async with place.buyer(node, rpc=rpc) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
            place.back_up()
            assert await ask(client, max_tokens=8, seed=2)
        await node.parts.settlement.step(force=True)
        await cut(node)
    async with place.node("restored") as node, place.buyer(node, rpc=rpc) as client:
        for call in (ask(client, max_tokens=8), client.open_channel(PAYER_KEY, DEPOSIT)):
            with pytest.raises(BooksMismatch, match=way):
                await call
        with pytest.raises(BooksMismatch, match=way):
            await client.close_channel(PAYER_KEY)
        assert not client.voucher_signer.fault


@pytest.mark.parametrize("claimed", [True, False])
async def test_a_restored_buyers_folder_closes(
    place: Restored, monkeypatch: pytest.MonkeyPatch, *, claimed: bool
) -> None:
    """It was advised to close, and the close ended in the same error. The buyer's own chain shows a
    total that its ledger does not know, so the key signed it: the close is taken."""
    monkeypatch.setattr(closing, "SETTLED_WAITS_S", (0.0,))
    async with place.node("live") as node:
        async with place.buyer(node, rpc=True) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
        shutil.copytree(place.folder / "buyer", place.folder / "copy")
        async with place.buyer(node, rpc=True) as client:
            for number in range(3):
                assert await ask(client, max_tokens=60, seed=number)
            signed = client.channel.total_units
        if claimed:
            await node.parts.settlement.step(force=True)
        async with place.buyer(node, "copy", rpc=True) as client:
            for call in (ask(client, max_tokens=8), client.open_channel(PAYER_KEY, DEPOSIT)):
                with pytest.raises(BooksMismatch, match=r"`viz channel close`.*viz channel renew"):
                    await call
            closed = await ChannelControl(client).close(KeyWallet(PAYER_KEY))
            assert closed["settled"] == str(signed) and closed["seenClosed"]
            told = _closed(closed, DEPLOYMENT, PAYER, "")
            assert "older copy" in told and "the total is what your chain shows" in told
            shown = await ChannelControl(client).show()
            assert shown["onChain"]["settled"] == str(signed) > shown["billed"]
            assert (shown["onChain"]["deposit"], shown["mismatch"] != "") == ("0", True)
            assert place.chain.balances[PAYER] == 10**9 - signed


async def test_an_unknown_total_needs_the_buyers_own_chain(place: Restored) -> None:
    """Only the node says it: it is not taken for true, and the message says what is."""
    async with place.node("live") as node:
        async with place.buyer(node) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
        shutil.copytree(place.folder / "buyer", place.folder / "copy")
        async with place.buyer(node) as client:
            assert await ask(client, max_tokens=60)
        async with place.buyer(node, "copy") as client:
            with pytest.raises(NodeNotTrusted, match=r"--rpc.*`viz channel leave`"):
                await client.close_channel(PAYER_KEY)


async def test_a_channel_with_money_is_not_set_aside(place: Restored) -> None:
    """Its key is what brings the money back; a deposit under way counts as well."""
    async with place.node("live") as node:
        async with place.buyer(node) as client:
            await client.open_channel(PAYER_KEY, DEPOSIT)
            assert await ask(client, max_tokens=8)
            signer, directory = client.signer, client.directory
        with pytest.raises(InvalidRequest, match="are in the channel"):
            await place.renew(signer)
        async with place.buyer(node) as client:
            await client.close_channel(PAYER_KEY)
        (directory / "deposit.json").write_text("{")
        with pytest.raises(InvalidRequest, match="may still arrive"):
            await place.renew(signer)
        (directory / "deposit.json").unlink()
        assert (await place.renew(signer)).is_dir() and not directory.exists()
