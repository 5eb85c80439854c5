"""The Close that a node signs and does not pay for is sent by the command, on a real chain."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api.harness import DEPOSIT as HELD
from tests.integration.api.harness import PAYER_KEY
from tests.integration.api.harness import Node as LocalNode
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_unilateral_close import (
    CHAIN,
    DEPOSIT,
    NODE,
    PASSWORD,
    PAYER,
    RICH,
)
from tests.integration.chain.testnet import Testnet, address
from typer.testing import CliRunner, Result

from viz.buyer.control.commands import ChannelControl
from viz.buyer.wallet.wallet import KeyWallet
from viz.chain.keys import create_key_file, development_account
from viz.cli.buyer import channel as commands
from viz.cli.main import app
from viz.domain.eip712 import settlement_domain, sign
from viz.domain.typed_data import Close
from viz.protocol.messages import CloseAnswer

SESSION = 6


class Desk:
    """Answers a close as a node does that does not submit it."""

    def __init__(self, answer: CloseAnswer) -> None:
        self.answer = answer

    async def close(self, _: KeyWallet) -> dict[str, Any]:
        close = self.answer.close
        return {
            "signer": close.signer,
            "node": close.node,
            "settled": str(close.settled_units),
            "billed": "0",
            "signed": "0",
            "transaction": "0x",
            "close": self.answer.to_json(),
            "seenClosed": None,
        }


async def desk_of(net: Testnet, settled_units: int = 0) -> Desk:
    signer, node = (address(development_account(each)) for each in (SESSION, NODE))
    close = Close(signer, node, settled_units, await net.chain.chain_time() + 300)
    here = net.deployment
    digest = settlement_domain(here.chain_id, here.settlement).digest(close)
    signature = sign(bytes(development_account(NODE).key), digest)
    return Desk(CloseAnswer(close, signature, b""))


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Testnet]:
    async with Testnet.running(tmp_path) as running:
        node = address(development_account(NODE))
        signer = development_account(SESSION)
        await running.open_channel(running.sender(PAYER), signer, node, DEPOSIT)
        for number, name in ((PAYER, "wallet"), (RICH, "rich")):
            account = development_account(number)
            create_key_file(tmp_path / f"{name}.json", PASSWORD, account=account, scrypt_n=2)
        yield running


async def typed(monkeypatch: pytest.MonkeyPatch, folder: Path, desk: Desk, *more: str) -> Result:
    @asynccontextmanager
    async def channel_control(*_: Any, **__: Any) -> AsyncIterator[Desk]:
        yield desk

    monkeypatch.setattr(commands, "channel_control", channel_control)
    words = ["channel", "close", "--key", str(folder / "wallet.json"), "--data-dir", str(folder)]
    runner = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD})
    return await asyncio.to_thread(runner.invoke, app, [*words, *more])


async def balance(net: Testnet) -> int:
    return await net.chain.token_balance(address(development_account(PAYER)))


async def test_with_a_chain_the_command_sends_the_close(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deposit is back at once, and the command says so by the chain's word."""
    rpc = ("--rpc", net.anvil.url, "--json")
    done = await typed(monkeypatch, tmp_path, await desk_of(net), *rpc)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["seenClosed"] is True and len(found["transaction"]) == 66
    assert await balance(net) == DEPOSIT
    again = await typed(monkeypatch, tmp_path, await desk_of(net, settled_units=9), *rpc)
    assert "The node agreed to close at 0.000009" in again.stderr
    assert again.exit_code == CHAIN and again.stderr.count("\n") == 1


async def test_a_wallet_without_gas_has_another_key_send_it(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The money goes to the payer; without that key the error names the option."""
    await net.rpc.request("anvil_setBalance", [address(development_account(PAYER)), "0x0"])
    rpc = ("--rpc", net.anvil.url)
    poor = await typed(monkeypatch, tmp_path, await desk_of(net), *rpc)
    assert poor.exit_code == CHAIN and "--gas-key" in poor.stderr
    assert "end this cause, and then run this command again. Or do nothing: until" in poor.stderr
    assert await balance(net) == 0
    key = ("--gas-key", str(tmp_path / "rich.json"))
    done = await typed(monkeypatch, tmp_path, await desk_of(net), *rpc, *key)
    assert done.exit_code == 0 and "closed at 0" in done.stdout, done.output
    assert "Only the node says so" not in done.stdout
    assert await balance(net) == DEPOSIT


async def test_without_a_chain_the_command_to_run_is_printed(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole but for the chain's address, and it closes."""
    told = await typed(monkeypatch, tmp_path, await desk_of(net))
    assert told.exit_code == 0 and await balance(net) == 0
    command = told.stdout.split("`")[1]
    assert command.endswith(" --rpc URL")
    words = shlex.split(command.replace("URL", net.anvil.url))
    assert words[:3] == ["viz", "channel", "close"]
    runner = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD})
    done = await asyncio.to_thread(runner.invoke, app, words[1:])
    assert done.exit_code == 0, done.output
    assert await balance(net) == DEPOSIT


async def test_a_close_is_handed_on_as_the_node_signed_it(node: LocalNode, tmp_path: Path) -> None:
    """A channel that earned nothing: the node signs, and sends nothing."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, HELD)
        found = await ChannelControl(client).close(KeyWallet(PAYER_KEY))
        answer = CloseAnswer.from_json(found["close"])
        assert found["transaction"] == "0x" and not answer.transaction_hash
        assert answer.close.signer == client.signer and answer.signature
