"""A chain and a node for the withdrawal: real parts in one process, so that time can be moved.

Owns starting and ending them below one folder. The node's loops do not run: each look that they
would take by themselves is taken when the story says so, with the chain's clock moved before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from examples.demo.world import ROOT, DemoError
from viz.api.app import create_app, create_runner
from viz.api.context import ApiLimits, NodeTerms
from viz.backends import OpenBackends, open_backends, service_settings
from viz.chain.contracts import Chain
from viz.chain.deploy import ensure_deployed
from viz.chain.devnet import Devnet
from viz.chain.keys import create_key_file, development_account
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.composition.services import Services, build_services, node_context, restore
from viz.creator.registration import register_directly
from viz.domain.eip712 import settlement_domain, sign
from viz.domain.ports.chain import Deployment
from viz.domain.ports.transactions import Call, Transaction
from viz.domain.typed_data import OpenChannel
from viz.domain.units import Address, ContentId, Units, parse_address
from viz.services.work_records import draft, read_description
from viz.settings.config import ChainConfig, Config, WithdrawalConfig
from viz.settings.engine_config import EngineConfig
from viz.storage.sealing import recipient_of

NODE: Final = 3
# Measuring an adapter takes the longer the more facts it was taught.
CHUNKS: Final = 6
PASSWORD: Final = "only for this story"  # noqa: S105  a key that everybody knows
TOKEN: Final = "the operator of this story"  # noqa: S105  likewise


@dataclass
class Network:
    """A local chain with the contracts; account 0 deployed, the others are the people's."""

    anvil: Devnet
    rpc: Rpc
    deployment: Deployment
    chain: Chain

    def sender(self, account: int) -> Sender:
        return Sender(self.rpc, development_account(account), self.deployment)

    async def done(self, account: int, contract: str, function: str, *args: object) -> Transaction:
        """Send a transaction of one person and return it settled."""
        sent = await self.sender(account).submit(Call(contract, function, args))
        return sent.require_mined(function)

    async def register(self, account: int, work: str, place: Path) -> ContentId:
        """Copy the beginning of an example to ``place`` and register it for an account."""
        await asyncio.to_thread(_copy_beginning, ROOT / "examples" / "works" / work, place)
        described = read_description(
            place / "terms.toml", token_decimals=self.deployment.token_decimals
        )
        account_of = development_account(account)
        file = place / described.file
        made = draft(file, described, parse_address(str(account_of.address)))
        done = await register_directly(
            file,
            made,
            self.sender(account),
            chain=self.chain,
            deployment=self.deployment,
            key=bytes(account_of.key),
        )
        assert done.content_id is not None
        return done.content_id

    async def open_channel(self, payer: int, signer: int, node: Address, units: Units) -> None:
        """Deposit ``units`` of fresh play money into a channel to the node."""
        account, key = self.sender(payer).address, development_account(signer)
        await self.done(0, "Token", "mint", account, units)
        await self.done(payer, "Token", "approve", self.deployment.settlement, units)
        where = settlement_domain(self.deployment.chain_id, self.deployment.settlement)
        consent = sign(bytes(key.key), where.digest(OpenChannel(account, node)))
        await self.done(payer, "Settlement", "open", key.address, node, units, consent)


def _copy_beginning(work: Path, place: Path) -> None:
    """Copy a work's terms and its first chunks."""
    place.mkdir(parents=True)
    shutil.copy(work / "terms.toml", place)
    with (work / "work.jsonl").open(encoding="utf-8") as lines:
        (place / "work.jsonl").write_text("".join(islice(lines, CHUNKS)), encoding="utf-8")


@asynccontextmanager
async def network(folder: Path) -> AsyncIterator[Network]:
    """Run a chain below ``folder`` with the contracts, as `viz up` deploys them."""
    anvil = await Devnet.start()
    rpc = Rpc(anvil.url)
    try:
        deployment = await ensure_deployed(rpc, development_account(0), folder / "deployment.json")
        yield Network(anvil, rpc, deployment, Chain(rpc, deployment))
    finally:
        await rpc.close()
        await anvil.stop()


@dataclass
class RunningNode:
    """A node and its operator's door."""

    url: str
    http: aiohttp.ClientSession
    opened: OpenBackends
    services: Services

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request with the operator's token; return the status and the JSON."""
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with self.http.request(method, self.url + path, json=body, headers=bearer) as found:
            return found.status, await found.json(content_type=None)

    async def operate(self, path: str, body: object) -> Any:
        """Give the operator's command; raise DemoError if the node refuses it."""
        status, answer = await self.ask("POST", f"/operator/v1{path}", body)
        if status >= 300:
            raise DemoError(f"{path}: {status} {answer.get('detail', answer)}")
        return answer

    async def trained(self, body: dict[str, Any]) -> str:
        """Train to the end and return the run's id."""
        training_id = str((await self.operate("/trainings", body))["id"])
        async for _ in self.services.trainings.events(training_id):
            pass
        record = await self.services.trainings.record(training_id)
        if record.state != "done":
            raise DemoError(f"the training ended as {record.state}: {record.error}")
        return training_id

    async def publish(self, training_id: str, **more: object) -> int:
        """Register a run's adapter and put it on offer; return its id."""
        wanted = {"trainingId": training_id, "royaltyBps": 3_000, "trainerBps": 1_000}
        found = await self.operate("/publications", {**wanted, "anyway": True, **more})
        if found["offer"] is None:
            raise DemoError(found["detail"])
        return int(found["adapter_id"])


def settings(folder: Path, rpc_url: str, engine: EngineConfig) -> Config:
    """Return a node's settings below ``folder``, and make its key."""
    key_file = folder / "operator.key.json"
    if not key_file.exists():
        create_key_file(key_file, PASSWORD, account=development_account(NODE), scrypt_n=2)
    return Config(
        data_dir=folder,
        key_password=PASSWORD,  # type: ignore[arg-type]
        chain=ChainConfig(rpc_url=rpc_url),
        engine=engine,
        withdrawal=WithdrawalConfig(destroy_named_files=True),
    )


@asynccontextmanager
async def running_node(config: Config) -> AsyncIterator[RunningNode]:
    """Run a node whose loops are taken step by step, but for the trainings."""
    async with contextlib.AsyncExitStack() as ends:
        opened = await ends.enter_async_context(
            open_backends(config, new_ledger=True, report=lambda done: None)
        )
        wanted = service_settings(config, development=True)
        services = build_services(opened.backends, wanted)
        await restore(opened.backends, services)
        recipient = recipient_of(opened.backends.age_identity)
        terms = NodeTerms(1_000_000, TOKEN, recipient)
        context = node_context(opened.backends, services, terms)
        runner = create_runner(create_app(context, ApiLimits()), shutdown_timeout_s=1)
        await runner.setup()
        ends.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        trains = asyncio.create_task(services.trainings.run())
        ends.push_async_callback(_ended, trains)
        http = await ends.enter_async_context(aiohttp.ClientSession())
        yield RunningNode(f"http://{host}:{port}", http, opened, services)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
