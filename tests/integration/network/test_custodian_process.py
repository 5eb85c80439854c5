"""A custodian is a node without a model: it runs, as a process, where the model stack is not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import free_port, real_node
from tests.integration.network.works import SECRET, license_to, registered_work
from tests.unit.test_packaging import NODE_ONLY

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file, development_account
from viz.creator import sealed
from viz.protocol.listing import LISTINGS_PATH

ROOT = Path(__file__).parents[3]
PASSWORD = "correct horse"
CUSTODIAN, TRAINER = 5, 6
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


@asynccontextmanager
async def custodian_process(net: Testnet, folder: Path) -> AsyncIterator[Process]:
    """Run a node of the core install with ``engine.backend = "none"``."""
    folder.mkdir()
    save_deployment(folder / "deployment.json", net.deployment)
    account = development_account(CUSTODIAN)
    create_key_file(folder / "operator.key.json", PASSWORD, account=account, scrypt_n=2)
    port = free_port()
    settings = {
        "VIZ_KEY_PASSWORD": PASSWORD,
        "VIZ_DATA_DIR": str(folder),
        "VIZ_CHAIN__RPC_URL": net.anvil.url,
        "VIZ_API__PORT": str(port),
        "VIZ_ENGINE__BACKEND": "none",
        "VIZ_SETTLEMENT__CLAIM_AGE_S": "900",
        "PYTHONPATH": "node",
    }
    log = (folder / "log").open("wb")
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WITHOUT.format(blocked=NODE_ONLY),
        "node",
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=log,
        stderr=log,
    )
    made = Process(f"http://127.0.0.1:{port}", folder)
    try:
        for _ in range(300):
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
            await asyncio.wait_for(running.wait(), 30)
        log.close()


async def test_a_node_without_a_model_is_a_custodian(net: Testnet, tmp_path: Path) -> None:
    """It takes a work, gives its key to a licensed trainer, and sells and trains nothing."""
    work = await registered_work(net, tmp_path / "creator")
    async with (
        custodian_process(net, tmp_path / "a") as custodian,
        real_node(net, tmp_path / "b", TRAINER) as trainer,
    ):
        status, info = await custodian.call("GET", "/viz/v1/node")
        assert status == 200 and info["adapters"] == [] and info["baseModel"] == ""
        assert (await custodian.call("GET", "/v1/models"))[1]["data"] == []
        assert (await custodian.call("GET", "/healthz"))[0] == 200

        named = await sealed.custodian_at(custodian.url, net.deployment)
        await sealed.hand_over(work.sealed, work.content_id, named, net.deployment, work.key)
        document = sealed.listing_of(
            work.record,
            work.sealed,
            sealed.ListingWords("Alma Reyes", "en"),
            [named],
            net.deployment,
            size_bytes=work.path.stat().st_size,
            now_s=1,
        )
        listing = sealed.sign_listing(document, net.deployment, work.key)
        for node in (custodian, trainer):
            status, answer = await node.call("POST", LISTINGS_PATH, body=listing.to_json())
            assert status == 201, answer
        await license_to(net, TRAINER, work)
        status, found = await trainer.operate("POST", "/works", {"contentId": 1})
        assert status == 200, found
        assert Path(found["path"]).read_bytes() == work.path.read_bytes()

        for path, body in (
            ("/operator/v1/trainings", {"works": [{"contentId": 1}]}),
            ("/operator/v1/adapters", {"adapterId": 1}),
            ("/viz/v1/channels", {}),
        ):
            status, problem = await custodian.call("POST", path, body)
            assert (status, problem["code"]) == (503, "model-unavailable")
            # What is behind the node is its operator's to know.
            assert ("engine.backend" in problem["detail"]) == path.startswith("/operator/")
        kept = [path for path in custodian.folder.rglob("*") if path.is_file()]
        assert not [path for path in kept if SECRET.encode() in path.read_bytes()]
