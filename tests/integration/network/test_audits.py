"""Audits of a node on a real chain: what it published, what it claimed, whom it paid."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.fakes.engine import fake_adapter_file
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.chain.testnet import Testnet
from tests.integration.creator.relay_desk import OwnerDesk, new_owner
from tests.integration.network.nodes import RealNode, real_node

from viz.buyer.client import BuyerClient
from viz.chain.keys import development_account
from viz.domain.ports.engine import Engine
from viz.domain.ports.ledger import ReceiptRecord
from viz.domain.strict_json import load_json
from viz.domain.units import AdapterId, Hash32, parse_address
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.protocol import payment
from viz.services.adapters.publishing import Publication

CREATOR, TRAINER, PAYER = 2, 5, 8
DIFFERENT, INCONCLUSIVE = 13, 14
DAYS_S = 2 * 86_400


@dataclass
class LaterClock:
    """The machine's time, and ``ahead_s`` more."""

    ahead_s: int = 0

    def now_s(self) -> int:
        return int(time.time()) + self.ahead_s


@dataclass
class Market:
    """A trainer's node that sells an adapter of one work, and a buyer's folder."""

    net: Testnet
    node: RealNode
    adapter: AdapterId
    desk: OwnerDesk

    @asynccontextmanager
    async def buyer(self) -> AsyncIterator[BuyerClient]:
        async with aiohttp.ClientSession() as http:
            client = await BuyerClient.connect(
                http,
                self.node.url,
                home=self.desk.folder / "buyer",
                password="correct horse",
                expected=self.net.deployment,
                chain=self.net.chain,
                clock=self.node.clock,
                scrypt_n=2,
            )
            try:
                yield client
            finally:
                await client.aclose()

    async def ask(self, client: BuyerClient) -> None:
        body = {
            "model": f"viz-adapter-{self.adapter}",
            "messages": [{"role": "user", "content": "When is high tide?"}],
            "max_tokens": 16,
            "temperature": 0,
        }
        async with client.ask(body) as answer:
            async for _ in answer:
                pass
        assert answer.receipt is not None

    async def receipts(self, client: BuyerClient) -> Any:
        token = await client.token()
        path = f"/viz/v1/channels/{client.signer}/receipts"
        headers = {"Authorization": f"Bearer {token.token}"}
        _, found = await self.node.call("GET", path, headers=headers)
        return found


@pytest_asyncio.fixture
async def market(net: Testnet, tmp_path: Path) -> AsyncIterator[Market]:
    weights = fake_adapter_file(tmp_path / "adapter.safetensors")
    async with opened(net, tmp_path, weights) as made:
        yield made


@asynccontextmanager
async def opened(
    net: Testnet, folder: Path, weights: Path, engine: Engine | None = None
) -> AsyncIterator[Market]:
    """Run a node that sells an adapter with these weights."""
    work = await net.register_work(net.sender(CREATOR))
    async with real_node(net, folder / "node", TRAINER, engine=engine) as node:
        state = await net.chain.content(work)
        assert state is not None
        await net.mint(node.address, 100)
        registry = net.deployment.content_registry
        await net.done(node.sender, "Token", "approve", registry, 100)
        await net.done(node.sender, "ContentRegistry", "acquireGrant", work, state.terms_hash)
        made = await node.parts.publishing.publish(
            Publication(
                weights,
                node.engine.model.digest,
                Hash32(b"\x0c" * 32),
                3_000,
                1_000,
                [(work, 10_000)],
            )
        )
        body = {"adapterId": int(made.adapter_id), "name": "tides"}
        status, said = await node.operate("POST", "/adapters", body)
        assert status < 300, said
        await net.mint(parse_address(str(development_account(PAYER).address)), 10**6)
        yield Market(net, node, made.adapter_id, new_owner(folder / "home", net))


async def audit(market: Market, *files: Path) -> tuple[int, Any]:
    words = ("audit", "receipts", *files, "--node", market.node.address,
             "--periods", market.node.url, "--rpc", market.net.anvil.url, "--json")  # fmt: skip
    found = await market.desk.viz(*words, key=False, yes=False)
    return found.exit_code, json.loads(found.stdout[found.stdout.index("{\n") :])


async def test_published_receipts_are_the_buyer_s_and_sum_to_what_was_claimed(
    market: Market, tmp_path: Path
) -> None:
    """From the answer to the root: nothing is held before all is claimed, and a receipt that the
    node leaves out, or changes, is found by its buyer."""
    payer = bytes(development_account(PAYER).key)
    async with market.buyer() as client:
        await client.open_channel(payer, 100_000)
        await market.ask(client)
        await market.ask(client)
        own = tmp_path / "receipts.json"
        own.write_text(json.dumps(await market.receipts(client)))
        periods = market.node.parts.receipt_periods
        periods._clock = LaterClock(DAYS_S)
        made = await periods.publish()
        assert made is not None and made.period.count == 2
        code, told = await audit(market, own)
        assert code == INCONCLUSIVE and told["findings"] == []
        assert any("the claim of" in each for each in told["missing"]), told["missing"]
        await client.close_channel(payer)
    code, told = await audit(market, own)
    assert (code, told["verdict"]) == (0, "reproduced"), told
    assert told["published"]["included"] == 2
    (adapter,) = told["published"]["adapters"]
    assert adapter["published"] == adapter["claimed"] == str(made.period.amount_units)

    kept = periods._ledger.receipts

    async def without_the_last(*given: Any, **how: Any) -> list[ReceiptRecord]:
        return [each for each in await kept(*given, **how) if each.seq == 1]

    periods._ledger.receipts = without_the_last  # type: ignore[method-assign]
    shutil.rmtree(market.node.folder / "receipts")
    periods._kept = None
    hiding = await periods.publish()
    assert hiding is not None and hiding.period.count == 1
    code, told = await audit(market, own)
    assert code == DIFFERENT
    assert any("in none of the periods" in each for each in told["findings"])

    tampered = load_json(own.read_bytes())
    tampered["receipts"][0]["receipt"]["promptTokens"] += 1
    own.write_text(json.dumps(tampered))
    code, told = await audit(market, own)
    assert code == DIFFERENT and any("is not signed by" in each for each in told["findings"])


async def test_a_buyer_gets_the_file_that_the_audit_of_receipts_needs(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, page after page, and for the buyer alone. A node that hands out fewer receipts
    than the buyer has verified is told, and the file with the last one left out is no success."""
    monkeypatch.setattr(payment, "MAX_RECEIPTS", 1)  # the most in a page of the node
    async with market.buyer() as client:
        payer = bytes(development_account(PAYER).key)
        await client.open_channel(payer, 100_000)
        for _ in range(3):
            await market.ask(client)
    file = tmp_path / "receipts.json"
    get = ("channel", "receipts", file, "--node", market.node.url)
    found = await market.desk.viz(*get, key=False, yes=False)
    assert found.exit_code == 0 and "3 receipts in" in found.stdout, found.output
    assert market.node.address in found.stdout and file.stat().st_mode & 0o77 == 0
    status, _ = await market.node.operate("POST", "/settle")
    assert status < 300
    audit = ("audit", "receipts", file, "--node", market.node.address,
             "--rpc", market.net.anvil.url)  # fmt: skip
    found = await market.desk.viz(*audit, key=False, yes=False)
    whole = load_json(file.read_bytes())["receipts"]
    assert len(whole) == 3 and "3 receipts" in found.stdout, found.output
    assert found.exit_code == 0, "more was claimed than billed, and the ledger knows of no receipt"
    assert "of it paid ahead" in found.stdout
    odd = tmp_path / "odd.json"
    said = {**whole[0], "paid": 1, "receipt": {**whole[0]["receipt"], "tip": "1"}}
    odd.write_text(json.dumps({"receipts": [said, *whole[1:]], "note": "x"}))
    found = await market.desk.viz(*audit[:2], odd, *audit[3:], key=False, yes=False)
    assert found.exit_code == 13, "no signature covers a member that no receipt has"
    assert all(f"has a member '{name}'" in found.stdout for name in ("note", "paid", "tip"))
    odd.write_text(json.dumps({"receipts": []}))
    another = development_account(PAYER).address
    found = await market.desk.viz(
        "audit", "receipts", odd, "--node", another, "--rpc", market.net.anvil.url,
        "--periods", market.node.url, key=False, yes=False,
    )  # fmt: skip
    assert found.exit_code == 4 and f"is the URL of node {market.node.address}" in found.stderr
    other = ("audit", "receipts", file, "--node", development_account(PAYER).address,
             "--rpc", market.net.anvil.url)  # fmt: skip
    found = await market.desk.viz(*other, key=False, yes=False)
    assert found.exit_code == 4 and "is not the node of these" in found.stderr, found.output
    assert market.node.address in found.stderr and "not signed" not in found.output
    file.write_text(json.dumps({"receipts": whole[:2]}))
    found = await market.desk.viz(*audit, key=False, yes=False)
    assert found.exit_code == INCONCLUSIVE and "not billed by these receipts" in found.stdout
    file.write_text("{}")
    found = await market.desk.viz(*audit, key=False, yes=False)
    assert found.exit_code == 4 and "receipts.json" in found.stderr
    assert "viz channel receipts FILE" in found.stderr

    ledger = market.node.store
    kept = ledger.receipts

    async def fewer(*given: Any, **how: Any) -> list[Any]:
        return [each for each in await kept(*given, **how) if each.seq < 3]

    again = await market.desk.viz(*get, key=False, yes=False)
    assert again.exit_code == 4 and "exists already: name a new file" in again.stderr
    file.unlink()
    monkeypatch.setattr(ledger, "receipts", fewer)
    found = await market.desk.viz(*get, key=False, yes=False)
    assert found.exit_code == 12 and "your ledger has verified 3" in found.stderr, found.output


async def test_an_answer_is_bought_recorded_and_replayed(net: Testnet, tmp_path: Path) -> None:
    """With the weights that the chain names the text comes again; when the node answers with other
    ones behind the same name, the same two commands convict it."""
    base = make_tiny_base(tmp_path, quantised=True)
    weights, other = tmp_path / "sold.safetensors", tmp_path / "other.safetensors"
    write_random_adapter(weights, base, rank=4, seed=3)
    write_random_adapter(other, base, rank=4, seed=4)
    settings = EngineSettings(
        max_streams=2, context_tokens=256, compute="float32", compile=False, threads=1
    )
    engine = await EmbeddedEngine.start(base, settings)
    async with opened(net, tmp_path, weights, engine) as market:
        async with market.buyer() as client:
            await client.open_channel(bytes(development_account(PAYER).key), 100_000)
        record = tmp_path / "answer.json"
        assert await asked(market, record) == 0
        judged = ("audit", "answer", record, "--weights", weights, "--base-model",
                  base.directory, "--rpc", net.anvil.url, "--json")  # fmt: skip
        found = await market.desk.viz(*judged, key=False, yes=False)
        told = json.loads(found.stdout[found.stdout.index("{\n") :])
        assert (found.exit_code, told["verdict"]) == (0, "reproduced"), told
        assert told["replay"]["tokens"] >= 16 and told["replay"]["differing"] == 0

        await engine.remove_adapter(market.adapter)
        await engine.add_adapter(market.adapter, other)
        assert await asked(market, record) == 0
        found = await market.desk.viz(*judged, key=False, yes=False)
        assert found.exit_code == DIFFERENT and "did not give this text" in found.stdout


async def asked(market: Market, record: Path) -> int:
    record.unlink(missing_ok=True)  # the command writes over nothing
    """Buy a greedy answer with the command line; return its exit code."""
    words = ("buyer", "ask", "When is the lamp lit?", "--model", f"viz-adapter-{market.adapter}",
             "--max-tokens", 24, "--temperature", 0, "--record", record,
             "--node", market.node.url)  # fmt: skip
    found = await market.desk.viz(*words, key=False, yes=False)
    assert record.stat().st_mode & 0o77 == 0, "it has the words of the buyer"
    return found.exit_code
