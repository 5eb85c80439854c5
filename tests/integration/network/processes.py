"""Nodes as processes of their own, as operators run them: `viz node` over a folder."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.integration.chain.testnet import Testnet
from tests.unit.test_packaging import NODE_ONLY

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file, development_account
from viz.domain.units import Address, parse_address
from viz.local_socket import free_port

ROOT = Path(__file__).parents[3]
PASSWORD = "correct horse"
CUSTODIAN = 5
START_TRIES, STOP_S = 2_400, 60
# The command line, on a machine where only the core is installed.
WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not in the core install", name=name)

sys.meta_path.insert(0, Refuse())
from viz.cli import main
main()
"""


@dataclass
class Process:
    """A running `viz node`."""

    url: str
    folder: Path
    address: Address
    running: asyncio.subprocess.Process

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = (self.folder / "operator.token").read_text().strip()
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                method,
                self.url + path,
                json=body,
                headers={"Authorization": f"Bearer {token}"},
            ) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def operate(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one of the operator's commands."""
        return await self.call(method, f"/operator/v1{path}", body)

    async def kill(self) -> None:
        """Kill the process (SIGKILL), and return when it is gone."""
        self.running.kill()
        await self.running.wait()


@asynccontextmanager
async def node_process(
    net: Testnet,
    folder: Path,
    account: int,
    *options: str,
    program: Sequence[str] = ("-m", "viz"),
    **settings: str,
) -> AsyncIterator[Process]:
    """Run `viz node` with a development account's key, until the context ends or it is killed.

    ``settings`` are VIZ_ variables without that word.
    """
    folder.mkdir(exist_ok=True)
    save_deployment(folder / "deployment.json", net.deployment)
    key, key_file = development_account(account), folder / "operator.key.json"
    if not key_file.exists():
        create_key_file(key_file, PASSWORD, account=key, scrypt_n=2)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    given = {
        "KEY_PASSWORD": PASSWORD,
        "DATA_DIR": str(folder),
        "CHAIN__RPC_URL": net.anvil.url,
        "API__PORT": str(port),
        "API__PUBLIC_URL": url,
        "NETWORK__PRIVATE_ADDRESSES": "true",
        "SETTLEMENT__CLAIM_AGE_S": "900",
        **settings,
    }
    log = (folder / "log").open("wb")
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        "node",
        *options,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "node", **{f"VIZ_{k}": v for k, v in given.items()}},
        stdout=log,
        stderr=log,
    )
    made = Process(url, folder, parse_address(str(key.address)), running)
    try:
        for _ in range(START_TRIES):
            assert running.returncode is None, (folder / "log").read_text()
            try:
                await made.call("GET", "/viz/v1/node")
                break
            except (aiohttp.ClientError, FileNotFoundError):
                await asyncio.sleep(0.1)
        yield made
    finally:
        if running.returncode is None:
            running.terminate()
            await asyncio.wait_for(running.wait(), STOP_S)
        log.close()


@asynccontextmanager
async def custodian_process(net: Testnet, folder: Path) -> AsyncIterator[Process]:
    """Run a node of the core install with ``engine.backend = "none"``."""
    core = ("-c", WITHOUT.format(blocked=NODE_ONLY))
    made = node_process(net, folder, CUSTODIAN, program=core, ENGINE__BACKEND="none")
    async with made as running:
        yield running
