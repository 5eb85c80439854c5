"""`viz channel show` with the buyer's own chain: what the node does not answer, the chain does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api.harness import DEPOSIT as HELD
from tests.integration.api.harness import PAYER_KEY
from tests.integration.api.harness import Node as LocalNode
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_sent_close import SESSION, net
from tests.integration.buyer.test_unilateral_close import DEPOSIT, NODE, PASSWORD, PAYER
from tests.integration.chain.testnet import Testnet, address
from typer.testing import CliRunner, Result

from viz.buyer.control.commands import ChannelControl
from viz.buyer.ledger.folders import KEY_FILE, directory_of
from viz.chain.keys import create_key_file, development_account
from viz.cli.main import app
from viz.errors import ChainUnreachable, NodeUnreachable, StoreFull

__all__ = ["net"]
NOBODY = "http://127.0.0.1:1"
SIGNER, PLACE = (address(development_account(each)) for each in (SESSION, NODE))


async def shown(folder: Path, *more: str) -> Result:
    words = ["channel", "show", "--node", NOBODY, "--data-dir", str(folder), *more]
    runner = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD})
    return await asyncio.to_thread(runner.invoke, app, words)


async def test_a_node_that_is_down_leaves_the_chains_word(net: Testnet, tmp_path: Path) -> None:
    """There was no JSON, just when the deposit's state mattered; without --rpc the error stays."""
    directory = directory_of(tmp_path / "buyer", net.deployment, PLACE)
    directory.mkdir(parents=True)
    account = development_account(SESSION)
    create_key_file(directory / KEY_FILE, PASSWORD, account=account, scrypt_n=2)
    rpc = ("--rpc", net.anvil.url)
    done = await shown(tmp_path, *rpc, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["node"], found["signer"], found["open"]) == (PLACE, SIGNER, True)
    assert found["payer"] == address(development_account(PAYER))
    assert (found["deposit"], found["billed"]) == (str(DEPOSIT), "0")
    assert found["onChain"]["deposit"] == str(DEPOSIT) and NOBODY in found["notAnswered"]
    told = await shown(tmp_path, *rpc)
    assert told.exit_code == 0 and "the node did not answer" in told.stdout, told.output
    without = await shown(tmp_path, "--json")
    assert without.exit_code == 12 and not without.stdout


@pytest.mark.parametrize("own_chain", [True, False])
async def test_a_node_whose_disk_is_full_leaves_the_chains_word(
    node: LocalNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, own_chain: bool
) -> None:
    """It opens no session then. The newest block is told beside the folder's amounts."""
    chain: dict[str, Any] = {"chain": node.chain} if own_chain else {}
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, HELD)
    async with buying(node, tmp_path / "b", **chain) as client:
        full = StoreFull("the disk of the ledger is full")
        full.answered = True

        async def session(*_: Any) -> Any:
            raise full

        monkeypatch.setattr(client.api, "session", session)
        if not own_chain:
            with pytest.raises(StoreFull):
                await ChannelControl(client).show()
            return
        found = await ChannelControl(client).show()
        assert found["notAnswered"] == full.detail and found["deposit"] == str(HELD)
        assert found["onChain"]["deposit"] == str(HELD)


async def test_an_own_chain_that_is_away_is_an_error_as_before(
    node: LocalNode, tmp_path: Path
) -> None:
    """Then nothing at all is known of now."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, HELD)

    class Away:
        async def channel(self, *_: Any, **__: Any) -> Any:
            raise ChainUnreachable("the endpoint does not answer")

    async with buying(node, tmp_path / "b", chain=Away()) as client:
        with pytest.raises((ChainUnreachable, NodeUnreachable)):
            await ChannelControl(client).show()
