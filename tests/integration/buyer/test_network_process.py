"""The network's commands as people run them: no node is named, and a proxy runs beside them."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from eth_account import Account
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import PAYER_KEY, Node, running_node
from tests.integration.buyer.test_killed_mid_answer import cut
from tests.integration.buyer.test_network import KEYS, MODEL, SCRIPT
from tests.integration.buyer.test_proxy_process import LIMIT_S, PASSWORD, Buyer

from viz.buyer.ledger.network_record import NetworkFile
from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.domain.eip712 import public_address
from viz.local_socket import free_port

QUESTION: list[Any] = [{"role": "user", "content": "When is high tide?"}]


class Shopper(Buyer):
    """A data folder in which no node is named."""

    def environment(self, *, password: bool) -> dict[str, str]:
        given = super().environment(password=password)
        del given["VIZ_NODE_URL"]
        return given


@pytest.fixture
async def shopper(tmp_path: Path) -> AsyncIterator[tuple[Shopper, dict[str, Node]]]:
    """Two nodes of one chain; the buyer knows the second one's URL, which knows the first."""
    chain = FakeChain(KEYS["b"])
    chain.clock.now = int(time.time())
    chain.balances[public_address(PAYER_KEY)] = 10**9
    home = tmp_path / "home"
    save_deployment(home / "deployment.json", DEPLOYMENT)
    account = Account.from_key(PAYER_KEY)
    create_key_file(home / "wallet.json", PASSWORD, account=account, scrypt_n=2)
    for name in "bc":
        (tmp_path / name).mkdir()
    engines = {name: FakeEngine(context_tokens=2048, script=SCRIPT) for name in "bc"}
    async with (
        running_node(tmp_path / "b", chain=chain, engine=engines["b"], port=free_port()) as b,
        running_node(
            tmp_path / "c",
            chain=replace(chain, key=KEYS["c"]),
            engine=engines["c"],
            port=free_port(),
        ) as c,
    ):
        record = c.parts.catalogue.records()[0]
        dear = record.completion_units_per_million * 3
        await c.parts.catalogue.add(replace(record, completion_units_per_million=dear))
        state = chain.adapter_states[record.adapter_id]
        chain.adapter_states[record.adapter_id] = replace(
            state, base_model=engines["b"].model.digest
        )
        await b.parts.announcing.announce(b.url)
        await c.parts.discovery.step()
        NetworkFile(home / "buyer").change(lambda kept: kept.knowing(c.url))
        yield Shopper(home, b), {"b": b, "c": c}


async def test_a_buyer_without_a_url(shopper: tuple[Shopper, dict[str, Node]]) -> None:
    """Find, ask, pay and look through one proxy; its node dies, and the program notices a pause."""
    buyer, nodes = shopper
    code, said, complained = await buyer.run("buyer", "models", "tides")
    assert code == 0 and MODEL in said and "2; the cheapest is" in said, complained
    code, said, complained = await buyer.run("buyer", "models", "nothingsuch")
    assert code == 0 and said.strip() == "No model on offer has these words.", complained
    code, said, complained = await buyer.run("buyer", "ask", "When?", password=True)
    assert code == 5 and "--key" in complained, complained
    key = ("--key", f"{buyer.home}/wallet.json", "--max-per-day", "0.9", "--max-deposit", "0.05")
    words = ("buyer", "ask", "When?", "--model", "tides", "--json", *key)
    code, said, complained = await buyer.run(*words, password=True)
    assert code == 0, complained
    (part,) = json.loads(said)["parts"]
    b, c, alive = nodes["b"], nodes["c"], True
    assert part["node"] == b.chain.address
    async with buyer.proxy(*key) as (url, process):
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as program:
            assert [each.id for each in (await program.models.list()).data] == ["fake", MODEL]
            text = ""
            stream: Any = await program.chat.completions.create(
                model=MODEL,
                messages=QUESTION,
                max_tokens=120,
                stream=True,
            )
            async for chunk in stream:
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                if len(text) >= 40 and alive:
                    await cut(b)
                    alive = False
        assert len(text) == 120
        code, said, complained = await buyer.run("buyer", "ask", "When?", "--model", "tides")
        assert code == 0 and said.splitlines()[-1].startswith(f"{MODEL}, paid 0.0"), complained
        code, said, complained = await buyer.run(
            "channel",
            "show",
            "--json",
            "--node",
            c.url,
        )
        assert code == 0 and json.loads(said)["deposit"] == "50000", complained
        code, said, complained = await buyer.run("buyer", "spending", "--json")
        channels = json.loads(said)["channels"]
        assert code == 0 and len(channels) == 2 and all(int(each["left"]) for each in channels)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT_S):
            _, last = await process.communicate()
    lines = last.decode().splitlines()
    parts = [line for line in lines if "a part of an answer" in line]
    assert len(parts) == 2 and lines[-1].startswith("2 answers, 0."), lines
    assert nodes["c"].engine.stats()["generated_tokens"] > 0


async def test_options_of_the_network_beside_a_node_are_refused(
    shopper: tuple[Shopper, dict[str, Node]],
) -> None:
    """A budget that would not be kept is not silently dropped."""
    buyer, _ = shopper
    words = ("buyer", "ask", "When?", "--node", buyer.node.url, "--max-per-day", "1")
    code, _, complained = await buyer.run(*words, password=True)
    assert code == 4 and "--max-per-day" in complained
