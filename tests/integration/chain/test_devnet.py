"""The local chain as a process: state over restarts, and clear refusals."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest
from aiohttp import web

from viz.chain.deploy import ensure_deployed
from viz.chain.devnet import Devnet
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.domain.ports.transactions import Call
from viz.errors import ChainError, ChainMismatch, ChainUnreachable, ConfigError


async def test_state_survives_a_restart_and_a_deployment_is_made_once(tmp_path: Path) -> None:
    """`viz up` after a stop goes on where it was: same genesis, same contracts, same balances."""
    state, file = tmp_path / "chain.json", tmp_path / "deployment.json"
    deployer = development_account(0)
    first = await Devnet.start(state=state)
    rpc = Rpc(first.url)
    deployment = await ensure_deployed(rpc, deployer, file)
    sender = Sender(rpc, deployer, deployment)
    await sender.submit(Call("Token", "mint", (sender.address, 5)))
    head = await rpc.block_number()
    await rpc.close()
    await first.stop()

    second = await Devnet.start(state=state)
    rpc = Rpc(second.url)
    assert await ensure_deployed(rpc, deployer, file) == deployment
    assert await rpc.block_number() == head
    await rpc.close()
    await second.stop()


async def test_the_deploy_script_deploys_once_and_then_checks(tmp_path: Path) -> None:
    """What the README tells people to run works, twice, and refuses in one line.

    The folder that it makes is where keys and ledgers come to lie: no other user may look into it.
    """
    running = await Devnet.start()
    file = tmp_path / "home" / "deployment.json"
    way = ["--development", "--rpc", running.url, "--out", str(file)]
    assert "wrote" in await deploy_script(0, *way)
    kept = file.read_bytes()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "checked" in await deploy_script(0, *way)
    assert file.read_bytes() == kept
    assert "name the deployer's --key-file" in await deploy_script(1, "--rpc", running.url)
    assert "choose another --out" in await deploy_script(1, *way[:-1], str(file / "below"))
    await running.stop()
    assert "cannot be reached" in await deploy_script(1, *way)


async def deploy_script(expected: int, *arguments: str) -> str:
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "scripts/deploy.py",
        *arguments,
        cwd=root,
        env={**os.environ, "PYTHONPATH": "node", "VIZ_KEY_PASSWORD": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        umask=0,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == expected, out.decode()
    return out.decode()


async def test_a_reset_chain_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """A deployment file from a chain that is gone is never used, nor overwritten."""
    file = tmp_path / "deployment.json"
    first = await Devnet.start(chain_id=31_337)
    rpc = Rpc(first.url)
    await ensure_deployed(rpc, development_account(0), file)
    kept = file.read_bytes()
    await rpc.close()
    await first.stop()
    for chain_id, reason in ((31_337, "correct rpc_url"), (1_337, "is chain 1337")):
        other = await Devnet.start(chain_id=chain_id)
        rpc = Rpc(other.url)
        with pytest.raises(ChainMismatch, match=reason):
            await ensure_deployed(rpc, development_account(0), file)
        await rpc.close()
        await other.stop()
    assert file.read_bytes() == kept


async def test_a_taken_port_is_named() -> None:
    """A second chain on the same port is refused before anything starts."""
    running = await Devnet.start()
    with pytest.raises(ConfigError, match=f"port {running.port} is in use"):
        await Devnet.start(port=running.port)
    await running.stop()


async def test_one_process_runs_a_chain(tmp_path: Path) -> None:
    """Two anvils on one state file would each dump theirs over the other's."""
    state = tmp_path / "chain.json"
    first = await Devnet.start(state=state)
    with pytest.raises(ConfigError, match="another process runs the chain"):
        await Devnet.start(state=state)
    await first.stop()
    again = await Devnet.start(state=state)
    await again.stop()


async def test_a_missing_binary_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not run setup is told to."""
    monkeypatch.setenv("VIZ_ANVIL", "/nowhere/anvil")
    with pytest.raises(ConfigError, match="VIZ_ANVIL=/nowhere/anvil"):
        await Devnet.start()


async def test_a_damaged_state_file_is_not_waited_for(tmp_path: Path) -> None:
    """anvil that ends at once gives an error, not a time-out."""
    state = tmp_path / "chain.json"
    state.write_text("{ not json", encoding="utf-8")
    with pytest.raises(ChainUnreachable, match="ended at once"):
        await Devnet.start(state=state)


async def test_a_chain_that_is_not_there_is_unreachable() -> None:
    """No chain: one line that says what to do, and no secret of the URL in it."""
    await refused_without_secret("http://127.0.0.1:9/v3/secret-key?token=secret-key")


@pytest.mark.parametrize("status", [200, 401, 429, 500])
async def test_an_answer_that_is_no_json_rpc_is_unreachable(status: int) -> None:
    """A proxy, a rate limit, a wrong port: the same one line, whatever it answers."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<html>secret-key</html>", status=status)

    app = web.Application()
    app.router.add_post("/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    await refused_without_secret(f"http://127.0.0.1:{port}/v3/secret-key?token=secret-key")
    await runner.cleanup()


async def refused_without_secret(url: str) -> None:
    rpc = Rpc(url, timeout_s=5)
    with pytest.raises(ChainError, match=r"the chain at http://127\.0\.0\.1:\d+ ") as caught:
        await rpc.chain_id()
    assert "secret-key" not in str(caught.value)
    await rpc.close()
