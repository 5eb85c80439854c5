"""Leaving a node that is gone, by the command, on a real chain whose clock is moved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.chain.testnet import CLOSE_DELAY_S, Testnet, address
from typer.testing import CliRunner

from viz.buyer.ledger.ledger import BuyerLedger
from viz.chain.keys import create_key_file, development_account, load_key_file
from viz.cli.main import app
from viz.domain.claim_rows import SignedVoucher, pack_row
from viz.domain.ports.chain import Deployment
from viz.domain.units import BASE_MODEL, ZERO_ADDRESS, ZERO_HASH, Address
from viz.domain.usage import UsageLine

CHAIN, INPUT, PAYMENT = 6, 4, 5
PASSWORD, DEPOSIT, CLAIMED = "correct horse", 2_500_000, 400
NODE, PAYER, RICH = 3, 4, 5


class Buyer:
    """A buyer's folder: its wallet, its channel's session key, and what it types."""

    def __init__(self, net: Testnet, folder: Path) -> None:
        self.net, self.folder = net, folder
        self.wallet = folder / "wallet.key.json"

    async def opened(self) -> Address:
        """Open a channel to a node that nobody runs; return the session key's address."""
        account, node = development_account(PAYER), address(development_account(NODE))
        create_key_file(self.wallet, PASSWORD, account=account, scrypt_n=2)
        self.keep(self.net.deployment, node)
        (key_file,) = (self.folder / "buyer").rglob("session.key.json")
        self.session = load_key_file(key_file, PASSWORD)
        await self.net.open_channel(self.net.sender(PAYER), self.session, node, DEPOSIT)
        return address(self.session)

    def keep(self, deployment: Deployment, node: Address) -> None:
        """Make a channel's folder with its session key."""
        home = self.folder / "buyer"
        BuyerLedger.open(home, deployment, node, PASSWORD, scrypt_n=2).close()

    async def leave(self, *more: str, key: Path | None = None) -> Any:
        """Run `viz channel leave`; return its JSON, or its exit code and one line."""
        place = ("--data-dir", str(self.folder), "--rpc", self.net.anvil.url, "--json")
        return await self.run("leave", "--key", str(key or self.wallet), *place, *more)

    async def renew(self, *more: str) -> Any:
        """Run `viz channel renew`; return its JSON, or its exit code and one line."""
        place = ("--data-dir", str(self.folder), "--rpc", self.net.anvil.url, "--json")
        return await self.run("renew", *place, *more)

    async def run(self, *words: str) -> Any:
        runner = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD})
        done = await asyncio.to_thread(runner.invoke, app, ["channel", *words])
        if done.exit_code == 0:
            return json.loads(done.stdout)
        assert done.stdout == "" and done.stderr.count("\n") == 1, done.output
        return done.exit_code, done.stderr

    async def balance(self) -> int:
        return await self.net.chain.token_balance(address(development_account(PAYER)))


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Testnet]:
    async with Testnet.running(tmp_path) as running:
        yield running


@pytest.fixture
def buyer(net: Testnet, tmp_path: Path) -> Buyer:
    return Buyer(net, tmp_path)


async def test_a_buyer_leaves_a_node_that_is_gone(net: Testnet, buyer: Buyer) -> None:
    """The money comes back in two runs a delay apart; every run between says when."""
    signer = await buyer.opened()
    asked = await buyer.leave()
    assert (asked["state"], asked["signer"], asked["deposit"]) == (
        "requested",
        signer,
        str(DEPOSIT),
    )
    waiting = await buyer.leave()
    assert waiting["state"] == "waiting" and waiting["returned"] == "0"
    assert waiting["withdrawableAt"] == asked["withdrawableAt"] >= asked["chainTime"]
    assert await buyer.balance() == 0

    # Nobody answers for the node, but it may still claim what was signed.
    lines = (UsageLine(BASE_MODEL, CLAIMED),)
    signature = net.voucher(buyer.session, asked["node"], 0, lines)
    row = pack_row(SignedVoucher(0, ZERO_HASH, lines, signature))
    await net.done(net.sender(NODE), "Settlement", "claim", row)
    await net.anvil.advance_time(CLOSE_DELAY_S)
    gone = await buyer.leave()
    assert (gone["state"], gone["returned"]) == ("withdrawn", str(DEPOSIT - CLAIMED))
    assert await buyer.balance() == DEPOSIT - CLAIMED
    assert (await buyer.leave())["state"] == "empty"


async def test_a_channel_that_was_left_is_begun_anew_with_another_key(
    net: Testnet, buyer: Buyer
) -> None:
    """Only when the money is back: until then its key may still be needed."""
    signer = await buyer.opened()
    code, line = await buyer.renew()
    assert code == INPUT and "`viz channel leave` first" in line
    await buyer.leave()
    code, line = await buyer.renew()
    assert code == INPUT and "are in the channel" in line
    await net.anvil.advance_time(CLOSE_DELAY_S)
    assert (await buyer.leave())["state"] == "withdrawn"
    await net.anvil.mine(5)
    done = await buyer.renew()
    assert done["signer"] == signer and Path(done["aside"], "session.key.json").exists()
    buyer.keep(net.deployment, done["node"])
    assert (await buyer.leave())[0] == PAYMENT, "the new key never opened a channel"


async def test_a_channel_whose_key_is_lost_is_begun_anew_by_its_addresses(
    net: Testnet, buyer: Buyer
) -> None:
    """The message named a way that the command did not take, and one damaged key file stopped the
    commands for every other channel."""
    signer, node = await buyer.opened(), address(development_account(NODE))
    (key_file,) = (buyer.folder / "buyer").rglob("session.key.json")
    buyer.keep(net.deployment, ZERO_ADDRESS)
    for other in set((buyer.folder / "buyer").rglob("session.key.json")) - {key_file}:
        other.write_bytes(b"")
    code, line = await buyer.leave("--node-address", ZERO_ADDRESS)
    assert code == INPUT and "`viz channel renew`" in line and "--signer" in line
    assert (await buyer.leave("--node-address", node))["state"] == "requested"
    await net.anvil.advance_time(CLOSE_DELAY_S)
    key_file.unlink()
    code, line = await buyer.renew("--node-address", node)
    assert code == PAYMENT and "--signer" in line
    named = ("--node-address", node, "--signer", signer)
    assert (await buyer.leave(*named))["state"] == "withdrawn"
    await net.anvil.mine(5)
    done = await buyer.renew(*named)
    assert done["onChain"] and not key_file.parent.exists() and Path(done["aside"]).is_dir()
    done = await buyer.renew("--node-address", ZERO_ADDRESS, "--signer", signer)
    assert not done["onChain"] and Path(done["aside"], "session.key.json").exists()
    code, line = await buyer.renew(*named)
    assert code == PAYMENT and "nothing to set aside" in line


async def test_a_wallet_without_gas_signs_and_another_key_relays(
    net: Testnet, buyer: Buyer
) -> None:
    """The payer needs no gas for either step, and the money goes to the payer, not the relayer."""
    await buyer.opened()
    await net.rpc.request("anvil_setBalance", [address(development_account(PAYER)), "0x0"])
    code, line = await buyer.leave()
    assert code == CHAIN and "--gas-key" in line
    gas_key = buyer.folder / "rich.key.json"
    create_key_file(gas_key, PASSWORD, account=development_account(RICH), scrypt_n=2)
    relayed = ("--gas-key", str(gas_key))
    assert (await buyer.leave(*relayed))["state"] == "requested"
    await net.anvil.advance_time(CLOSE_DELAY_S)
    assert (await buyer.leave(*relayed))["returned"] == str(DEPOSIT)
    assert await buyer.balance() == DEPOSIT


async def test_what_cannot_be_left_is_said(net: Testnet, buyer: Buyer) -> None:
    """Another's key, an ambiguous channel, one that was never opened: one line, nothing sent."""
    signer = await buyer.opened()
    stranger = buyer.folder / "stranger.key.json"
    create_key_file(stranger, PASSWORD, account=development_account(RICH), scrypt_n=2)
    code, line = await buyer.leave(key=stranger)
    assert code == INPUT and "the wallet that opened" in line
    buyer.keep(net.deployment, ZERO_ADDRESS)
    code, line = await buyer.leave()
    assert code == INPUT and "--node-address" in line
    code, line = await buyer.leave("--node-address", ZERO_ADDRESS)
    assert code == PAYMENT and "never opened" in line
    node = address(development_account(NODE))
    channel = await net.chain.channel(signer, node)
    assert channel is not None and channel.close_at == 0
    # The folder of the channel may be lost: its addresses do.
    other = Buyer(net, buyer.folder / "elsewhere")
    other.wallet = buyer.wallet
    trusted = ("--deployment", str(buyer.folder / "deployment.json"))
    named = ("--node-address", node, "--signer", signer, *trusted)
    assert (await other.leave(*named))["state"] == "requested"
