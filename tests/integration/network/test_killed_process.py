"""Three nodes and two Kubo daemons: the process that serves is killed, and no unit is lost.

A is a custodian of the core install and B the trainer, both processes; C is the second server. B
and C keep their blobs in a Kubo daemon each. These have no peers: what C serves came from B.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fakes.tiny_base import write_random_adapter
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.processes import Process, custodian_process, node_process
from tests.integration.network.test_buyer import (
    DEPOSIT,
    FUNDS,
    OTHER,
    PASSWORD,
    PAYER,
    ROYALTY_BPS,
    SERVER,
    TRAINER_BPS,
    accounts_hold,
    ascii_base,
    ask,
)
from tests.integration.network.works import CreatorsWork, license_to, registered_work
from tests.integration.services.claiming import SystemClock

from viz.basemodel.policy import DEFAULT_POLICY
from viz.basemodel.source import LoadedBase
from viz.buyer.network.budget import Budget
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.network.opening import NetworkSources, network_buyer
from viz.buyer.terms.prices import limits_in
from viz.buyer.wallet.wallet import KeyWallet
from viz.chain.keys import development_account
from viz.domain.units import AdapterId, Address, Hash32, Units, hex_of, parse_address
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.services.adapters.publishing import Publication
from viz.storage.kubo import KuboBlobStore
from viz.storage.kubo_daemon import KuboDaemon
from viz.storage.sealing import MAGIC

# The custodian is account 5, of ``custodian_process``.
TRAINER: Final = OTHER
TOKENS: Final = 160
ENGINE: Final = EngineSettings(
    max_streams=2, context_tokens=512, compute="float32", compile=False, threads=1
)
# So much that no latency which the buyer measured there makes up for it.
DEARER: Final = {"promptPrice": "16000000", "completionPrice": "48000000"}


@dataclass
class Built:
    """The network before anything runs: a base, a work with its license, two daemons."""

    net: Testnet
    folder: Path
    base: LoadedBase
    work: CreatorsWork
    daemons: tuple[KuboDaemon, KuboDaemon]

    def store(self, which: int) -> KuboBlobStore:
        return KuboBlobStore(self.daemons[which].api)

    async def published(self) -> AdapterId:
        """Register an adapter of B's; its sealed weights are in B's daemon, the key in its folder.

        It comes from no training, so no process could be told to publish it.
        """
        weights = self.folder / "adapter.safetensors"
        write_random_adapter(weights, self.base, rank=4, seed=3)
        store = self.store(0)
        engine = await EmbeddedEngine.start(self.base, ENGINE)
        made = real_node(self.net, self.folder / "made", TRAINER, engine=engine, blobs=store)
        async with made as node:
            published = await node.parts.publishing.publish(
                Publication(
                    weights,
                    self.base.digest,
                    Hash32(b"\x0c" * 32),
                    ROYALTY_BPS,
                    TRAINER_BPS,
                    [(self.work.content_id, 10_000)],
                )
            )
        await store.close()
        shutil.copytree(self.folder / "made" / "keys", self.folder / "b" / "keys")
        return published.adapter_id

    @asynccontextmanager
    async def trainer(self, *options: str) -> AsyncIterator[Process]:
        """Run B, a process on the first daemon; again on the same folder after it was killed."""
        settings = {
            "STORAGE__BACKEND": "kubo",
            "STORAGE__KUBO_API": self.daemons[0].api,
            "ENGINE__BASE_MODEL": str(self.folder / "tiny"),
            "ENGINE__BASE_DIGEST": hex_of(self.base.digest),
            "ENGINE__MAX_STREAMS": "2",
            "ENGINE__CONTEXT_TOKENS": "512",
            "ENGINE__COMPUTE": "float32",
            "ENGINE__COMPILE": "false",
            "ENGINE__THREADS": "1",
        }
        made = node_process(self.net, self.folder / "b", TRAINER, *options, **settings)
        async with made as running:
            yield running

    @asynccontextmanager
    async def server(self) -> AsyncIterator[RealNode]:
        """Run C on the second daemon."""
        store, engine = self.store(1), await EmbeddedEngine.start(self.base, ENGINE)
        # How slow a source may be is another test's: on a busy machine B is slow.
        made = real_node(
            self.net,
            self.folder / "c",
            SERVER,
            engine=engine,
            blobs=store,
            block_timeout_s=60,
        )
        async with made as node:
            yield node
        await store.close()

    def buyer(self) -> Any:
        """Return a context of a buyer that knows nothing but its chain."""
        home = self.folder / "buyer"
        tokenizer = home / "tokenizers" / "tiny"
        tokenizer.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.folder / "tiny" / name, tokenizer / name)
        return network_buyer(
            self.net.deployment,
            NetworkSources((), self.net.chain, private_addresses=True),
            home=home,
            password=PASSWORD,
            budget=Budget(DEPOSIT),
            limits=limits_in(self.net.deployment),
            wallet=KeyWallet(bytes(development_account(PAYER).key)),
            clock=SystemClock(),
            scrypt_n=2,
        )


@asynccontextmanager
async def built(net: Testnet, folder: Path, kubo_binary: Path) -> AsyncIterator[Built]:
    base = ascii_base(folder, DEFAULT_POLICY)
    work = await registered_work(net, folder / "creator")
    async with AsyncExitStack() as ends:
        first, second = (KuboDaemon(kubo_binary, folder / f"kubo-{each}") for each in "bc")
        for each in (first, second):
            await ends.enter_async_context(each)
        yield Built(net, folder, base, work, (first, second))


async def serve_at_both(made: Built, b: Process, c: RealNode, adapter: AdapterId) -> None:
    """Put the adapter on offer at its trainer and, permitted, at C, which is dearer."""
    while await made.net.chain.node_entry(b.address) is None:
        assert b.running.returncode is None, (b.folder / "log").read_text()
        await asyncio.sleep(0.1)
    permission = {"adapterId": int(adapter), "node": c.address, "allowed": True}
    offer = {"adapterId": int(adapter), "name": "lamps"}
    for node, path, body in (
        (b, "/adapters/permissions", permission),
        (b, "/adapters", offer),
        (c, "/adapters", {**offer, **DEARER}),
        (c, "/announcement", {"url": c.url}),
    ):
        status, said = await node.operate("POST", path, body)
        assert status < 300, said


async def settled(net: Testnet, node: Address, signers: list[Address]) -> Units:
    """Return what the chain settled at a node."""
    found = [await net.chain.channel(signer, node) for signer in signers]
    return sum(each.settled_units for each in found if each is not None)


async def books_of(buyer: NetworkBuyer, node: Address) -> tuple[Units, Units]:
    """Return what the buyer's own books say: spent at a node, and left there."""
    report = await buyer.spending_report()
    (channel,) = [each for each in report["channels"] if each["node"] == node]
    return int(channel["spent"]), int(channel["left"])


async def test_a_killed_process_costs_nobody_a_unit(
    net: Testnet, tmp_path: Path, kubo_binary: Path
) -> None:
    """B is killed in mid-stream (SIGKILL). C goes on, its books, the buyer's and the chain's agree
    to the unit; B comes back on its folder and claims what was signed to it, and no more."""
    await net.mint(parse_address(str(development_account(PAYER).address)), FUNDS)
    async with built(net, tmp_path, kubo_binary) as made:
        await license_to(net, TRAINER, made.work)
        fee = await net.chain.token_balance(net.sender(made.work.account).address)
        adapter = await made.published()
        async with made.server() as c:
            async with made.buyer() as buyer:
                # Its key published before, and has no ledger of that.
                async with made.trainer("--new-ledger") as b:
                    async with custodian_process(net, tmp_path / "a") as custodian:
                        await made.work.publish(custodian, listed_at=[b])
                        status, found = await b.operate("POST", "/works", {"contentId": 1})
                        assert status == 200, found
                        assert Path(found["path"]).read_bytes() == made.work.path.read_bytes()
                    await serve_at_both(made, b, c, adapter)
                    state = await net.chain.adapter(adapter)
                    assert state is not None
                    assert (await c.blobs.block(state.cid)).startswith(MAGIC)
                    answer = await ask(buyer, "lamps", b.kill, TOKENS)
                first, second = answer.parts
                assert (first.node, second.node) == (b.address, c.address)
                whole = await ask(buyer, f"viz-adapter-{adapter}", tokens=TOKENS)
                assert [part.node for part in whole.parts] == [c.address]
                assert answer.text == whole.text, "greedy text is one function of its context"
                assert first.completion_tokens + second.completion_tokens == TOKENS
                asked = whole.parts[0].prompt_tokens
                assert second.prompt_tokens == asked + first.completion_tokens
                at_c, signed_b = second.units + whole.parts[0].units, first.units
                assert await books_of(buyer, c.address) == (at_c, DEPOSIT - at_c)
            await c.parts.settlement.step(force=True)
            (row,) = await c.store.channels()
            assert row.total_units == at_c == await settled(net, c.address, [row.signer])
        async with made.trainer() as again:
            status, said = await again.operate("POST", "/settle")
            assert status == 200, said
            _, known = await again.operate("GET", "/channels")
            signers = [parse_address(each["signer"]) for each in known["channels"]]
            at_b = await settled(net, again.address, signers)
            assert asked * 2 <= at_b <= signed_b
            assert [each["unclaimed"] for each in known["channels"]] == ["0"]
            _, standing = await again.operate("GET", "/status")
            assert standing["books"]["mismatches"] == []
        claimed = {again.address: at_b, c.address: at_c}
        people = (again.address, c.address)
        await accounts_hold(net, adapter, made.work, people, claimed, fee)
