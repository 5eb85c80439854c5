"""A town of real processes: chain, node, creators, an adapter, a buyer's proxy; once a session."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from examples.demo.world import ROOT, World
from openai import OpenAI
from rich.console import Console
from tests.fakes.real_base import CACHE

from viz.chain.contracts import Chain
from viz.chain.deployment import load_deployment
from viz.chain.rpc import Rpc
from viz.domain.shares import split_revenue
from viz.domain.units import AdapterId, Address, ContentId, Units, parse_address

WORKS: Final = ROOT / "examples" / "works"
LICENSED, UNLICENSED = "varn-point", "orrin-railway"
DEPOSIT_UNITS: Final = 2_500_000
FUNDED_UNITS: Final = 10_000_000
TINY: Final = {
    "steps": 2,
    "warmup_steps": 1,
    "evaluate_every": 2,
    "rows_per_step": 2,
    "probes": 2,
    "rank": 4,
    "threads": 1,
    "max_row_tokens": 128,
    "held_out_share": 0.05,
    "replay_share": 0.0,
}
VOUCHER_GRACE_S: Final = 5


def new_world(folder: Path) -> World:
    """Return a world in ``folder`` that shares the converted base model with the other tests."""
    folder.mkdir(parents=True, exist_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(CACHE)
    return World(folder, Console(file=io.StringIO()), kubo=False)


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where all money is, read from the chain, in token base units."""

    contract: Units
    deposits: Mapping[Address, Units]
    settled: Mapping[Address, Units]
    undistributed: Units
    uncollected: Mapping[Address, Units]
    balances: Mapping[Address, Units]

    @property
    def accounted(self) -> Units:
        """The right side of Settlement's accounting sentence (docs/contracts.md)."""
        return sum(self.deposits.values()) + self.undistributed + sum(self.uncollected.values())


@dataclass(slots=True)
class Town:
    """What the tests share, and what they do to it."""

    world: World
    operator: Address
    base_model: str = ""
    creators: dict[str, Address] = field(default_factory=dict)
    contents: dict[str, ContentId] = field(default_factory=dict)
    adapters: list[AdapterId] = field(default_factory=list)
    signers: list[Address] = field(default_factory=list)
    payers: list[Address] = field(default_factory=list)

    @property
    def at(self) -> tuple[str, str]:
        """The option that names the node."""
        return "--node", self.world.node_url

    @property
    def folder(self) -> Path:
        return self.world.folder

    @property
    def log(self) -> str:
        """What the node has said since its last start."""
        return (self.folder / "node.log").read_text(encoding="utf-8")

    def start_node(self) -> None:
        """Start the node, for the first time or again, and wait until it answers."""
        password = (self.folder / "operator.password").read_text(encoding="utf-8").strip()
        config = self.folder / "viz.toml"
        self.world.start("node", "node", "--config", config, password=password)
        self.world.wait_for("node", f"{self.world.node_url}/healthz")

    def status(self) -> dict[str, Any]:
        """Return how the node stands: what `viz status` asks for."""
        token = (self.folder / "operator.token").read_text(encoding="utf-8").strip()
        request = urllib.request.Request(
            f"{self.world.node_url}/operator/v1/status",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def sold(self) -> list[str]:
        """Return the model names on offer."""
        return [each["model"] for each in self.status()["adapters"]]

    def new_wallet(self, name: str, *, tokens: int) -> Address:
        """Make a key file, fund it with test dollars and no gas, and return its address."""
        made = self.world.json("key", "new", self.folder / f"{name}.key.json")
        at_chain = ("--rpc-url", self.world.rpc_url)
        self.world.viz("testnet", "fund", made["address"], "--tokens", tokens, *at_chain)
        return parse_address(made["address"])

    def accounts(self) -> Accounts:
        """Read every balance from the chain."""
        return asyncio.run(self._accounts())

    async def _accounts(self) -> Accounts:
        deployment = load_deployment(self.folder / "deployment.json")
        rpc = Rpc(self.world.rpc_url)
        try:
            chain = Chain(rpc, deployment)
            channels = {each: await chain.channel(each, self.operator) for each in self.signers}
            people = [self.operator, *self.creators.values(), *self.payers]
            return Accounts(
                contract=await chain.token_balance(deployment.settlement),
                deposits={s: c.deposit_units if c else 0 for s, c in channels.items()},
                settled={s: c.settled_units if c else 0 for s, c in channels.items()},
                undistributed=sum([await _undistributed(chain, each) for each in self.adapters]),
                uncollected={each: await chain.collectable(each) for each in people},
                balances={each: await chain.token_balance(each) for each in people},
            )
        finally:
            await rpc.close()

    def gas_of(self, account: Address) -> int:
        """Return an account's balance of the chain's own coin, in wei."""

        async def read() -> int:
            rpc = Rpc(self.world.rpc_url)
            try:
                return await rpc.balance_wei(account)
            finally:
                await rpc.close()

        return asyncio.run(read())


async def _undistributed(chain: Chain, adapter_id: AdapterId) -> Units:
    """Return an adapter's royalties that wait in the contract, rounding not yet whole included."""
    adapter = await chain.adapter(adapter_id)
    assert adapter is not None
    revenue = await chain.settlement.revenue(adapter_id)
    split = split_revenue(
        0, revenue, royalty_bps=adapter.royalty_bps, trainer_bps=adapter.trainer_bps
    )
    divided = split.to_contents_units + split.to_trainer_units + split.to_node_units
    return await chain.settlement.undistributed(adapter_id) + revenue - divided


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A chain with the contracts, a node, and two works: one relayed, one registered directly."""
    world = new_world(tmp_path_factory.mktemp("e2e") / "town")
    try:
        world.start("testnet", "testnet", "run", "--rpc-port", world.rpc_port, "--json")
        made = Town(world, parse_address(world.said("testnet")["operator"]))
        (world.folder / "viz.toml").write_text(
            f'data_dir = "{world.folder}"\n[chain]\nrpc_url = "{world.rpc_url}"\n'
            f"[api]\nport = {world.node_port}\n"
            f"[prices]\nvoucher_grace_s = {VOUCHER_GRACE_S}\n",
            encoding="utf-8",
        )
        made.start_node()
        made.base_model = made.sold()[0]
        _register_works(made)
        yield made
    finally:
        world.stop()


def _register_works(town: Town) -> None:
    world = town.world
    directly = ("--direct", "--rpc", world.rpc_url,
                "--deployment", str(world.folder / "deployment.json"))  # fmt: skip
    shutil.copytree(WORKS, world.folder / "works")
    for creator, work, way in (("alma", LICENSED, town.at), ("celia", UNLICENSED, directly)):
        key = world.folder / f"{creator}.key.json"
        address = parse_address(world.json("key", "new", key)["address"])
        if way is directly:
            world.viz("testnet", "fund", address, "--gas", 1, "--rpc-url", world.rpc_url)
        script = [sys.executable, str(ROOT / "scripts" / "register_content.py")]
        place = str(world.folder / "works" / work)
        said = json.loads(
            world.command([*script, place, "--key", str(key), *way, "--yes", "--json"])
        )
        town.creators[creator] = address
        town.contents[work] = ContentId(said["contentId"])


@pytest.fixture(scope="session")
def grant(town: Town) -> ContentId:
    """The work that the node holds a grant to."""
    town.world.viz("content", "license", town.contents[LICENSED], *town.at)
    return town.contents[LICENSED]


@pytest.fixture(scope="session")
def training(town: Town, grant: ContentId) -> str:
    """A tiny adapter, trained on the one licensed work and not published; its run's id."""
    assert grant == town.contents[LICENSED]
    settings = [f"--set={name}={value}" for name, value in TINY.items()]
    work = town.folder / "works" / LICENSED
    done = town.world.json("train", work, "--no-publish", "--name", "keeper", *settings, *town.at)
    return str(done["id"])


@pytest.fixture(scope="session")
def adapter(town: Town, training: str) -> str:
    """The adapter on chain and on offer; its model name."""
    sold = ("--name", "keeper", "--publish-anyway")  # two steps teach nothing
    made = town.world.json("adapter", "register", training, *sold, *town.at)
    town.adapters.append(AdapterId(made["adapter_id"]))
    return str(made["offer"]["model"])


@dataclass(frozen=True, slots=True)
class Buyer:
    """A wallet without gas, its channel, and the official client at its proxy."""

    address: Address
    signer: Address
    key: Path
    client: OpenAI


@pytest.fixture(scope="session")
def buyer(town: Town) -> Buyer:
    """A buyer whose proxy runs."""
    world = town.world
    address = town.new_wallet("buyer", tokens=FUNDED_UNITS // 10**6)
    key = world.folder / "buyer.key.json"
    opened = world.json("channel", "open", DEPOSIT_UNITS / 10**6, "--key", key, *town.at)
    signer = parse_address(opened["signer"])
    town.signers.append(signer)
    town.payers.append(address)
    world.start("proxy", "buyer", "proxy", "--port", world.proxy_port, *town.at,
                "--rpc", world.rpc_url, "--json")  # fmt: skip
    ready = world.said("proxy")
    assert ready == {"url": world.proxy_url, "node": town.operator, "signer": signer}
    client = OpenAI(base_url=world.proxy_url, api_key="any", timeout=240, max_retries=0)
    return Buyer(address, signer, key, client)
