"""The proxy as a process of its own, beside the commands of the same buyer: as people run them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from eth_account import Account
from structlog.testing import capture_logs
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api import harness
from tests.integration.api.harness import ADAPTER, PAYER_KEY, Node, running_node
from typer.testing import CliRunner

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.cli.main import app
from viz.domain.eip712 import public_address

MODEL = f"viz-adapter-{ADAPTER}"
PASSWORD = "correct horse"
LIMIT_S = 120


@dataclass
class Buyer:
    """A data folder, and the commands that run in it."""

    home: Path
    node: Node

    def environment(self, *, password: bool) -> dict[str, str]:
        given = {**os.environ, "VIZ_DATA_DIR": str(self.home), "VIZ_NODE_URL": self.node.url}
        for name in ("VIZ_KEY_PASSWORD", "VIZ_KEY_PASSWORD_FILE", "VIZ_RPC_URL"):
            given.pop(name, None)
        return given | ({"VIZ_KEY_PASSWORD": PASSWORD} if password else {})

    async def run(self, *words: str, password: bool = False) -> tuple[int, str, str]:
        process = await _viz(*words, environment=self.environment(password=password))
        async with asyncio.timeout(LIMIT_S):
            said, complained = await process.communicate()
        return process.returncode or 0, said.decode(), complained.decode()

    @asynccontextmanager
    async def proxy(self, *options: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
        """Run the proxy while the context lasts; yield its URL and the process."""
        words = ("buyer", "proxy", "--port", "0", "--json", *options)
        process = await _viz(*words, environment=self.environment(password=True))
        assert process.stdout is not None
        try:
            async with asyncio.timeout(LIMIT_S):
                url = json.loads(await process.stdout.readline())["url"]
            yield url, process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _viz(*words: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "viz", *words, stdout=pipe, stderr=pipe, env=environment
    )


@pytest.fixture
async def buyer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Buyer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = web.TCPSite
    monkeypatch.setattr(harness, "ORIGIN", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(web, "TCPSite", lambda runner, host, _: site(runner, host, port))
    home = tmp_path / "home"
    save_deployment(home / "deployment.json", DEPLOYMENT)
    account = Account.from_key(PAYER_KEY)
    create_key_file(home / "wallet.json", PASSWORD, account=account, scrypt_n=2)
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node") as node:
        monkeypatch.setattr(web, "TCPSite", site)
        node.clock.now = int(time.time())
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        yield Buyer(home, node)


async def test_a_day_with_the_proxy(buyer: Buyer) -> None:
    """Deposit, ask and look through the running proxy; its end tells the sum; a kill loses nothing.

    What the commands need of the proxy they find beside the ledger, also where one was killed.
    """
    key = ("--key", f"{buyer.home}/wallet.json")
    async with buyer.proxy() as (url, process):
        code, said, complained = await buyer.run("channel", "open", "0.5", *key, password=True)
        assert code == 0 and "0.500000 vUSD" in said, complained
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as program:
            done = await program.chat.completions.create(
                model="tides", messages=[{"role": "user", "content": "When?"}], max_tokens=8
            )
        assert done.model == MODEL
        code, said, complained = await buyer.run("buyer", "ask", "When?", "--model", "tides")
        assert code == 0 and said.splitlines()[-1].startswith(f"{MODEL}, paid 0.0"), complained
        code, said, complained = await buyer.run("channel", "show", "--json")
        assert code == 0, complained
        spent = int(json.loads(said)["billed"])
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT_S):
            _, last = await process.communicate()
    lines = last.decode().splitlines()
    paid = [line for line in lines if "paid" in line and MODEL in line]
    assert len(paid) == 2 and all("vUSD" in line for line in paid), lines
    assert lines[-1].startswith(f"2 answers, 0.{spent:06} vUSD spent; 0.{500_000 - spent:06} vUSD")

    async with buyer.proxy() as (_, process):
        process.kill()
        await process.wait()
    # Standard output is JSON alone; which model is asked, and its price, goes to standard error.
    code, said, complained = await buyer.run("buyer", "ask", "When?", "--json", password=True)
    assert code == 0 and MODEL in complained, complained
    told = json.loads(said)
    assert told["model"] == MODEL and told["text"] and int(told["cost"]) > 0
    code, said, complained = await buyer.run("buyer", "spending", "--json")
    (channel,) = json.loads(said)["channels"]
    assert channel["unlisted"] == "0" and int(channel["spent"]) > spent
    code, said, complained = await buyer.run("channel", "close", *key, password=True)
    assert code == 0 and "vUSD in all" in said, complained


async def test_a_question_derives_its_key_once(
    buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the time to the first letter: scrypt takes a second by design, and once is enough.

    The first question makes the session key, a later one opens it, one through a proxy needs none.
    """
    derived: list[str] = []
    for place, name in ((Account, "encrypt"), (hashlib, "scrypt")):
        whole = getattr(place, name)

        def counted(*given: Any, whole: Any = whole, name: str = name, **more: Any) -> Any:
            derived.append(name)
            return whole(*given, **more)

        monkeypatch.setattr(place, name, counted)

    async def ask(password: str | None) -> str:
        given = {"VIZ_DATA_DIR": str(buyer.home), "VIZ_KEY_PASSWORD": password}
        words = ["buyer", "ask", "When?", "--node", buyer.node.url]
        with capture_logs():
            done = await asyncio.to_thread(CliRunner(env=given).invoke, app, words)
        return done.output

    assert "channel-unknown" in await ask(PASSWORD) and derived == ["encrypt"]
    assert "channel-unknown" in await ask(PASSWORD) and derived == ["encrypt", "scrypt"]
    async with buyer.proxy():
        derived.clear()
        assert "channel-unknown" in await ask(None) and derived == []
