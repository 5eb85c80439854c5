"""An adapter travels sealed: its trainer permits a node, which finds, opens, serves and is paid."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from tests.fakes.engine import fake_adapter_file
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, liar, listed, real_node
from tests.integration.network.works import CreatorsWork, license_to, registered_work
from tests.integration.services.claiming import SystemClock

from viz.buyer.client import BuyerClient
from viz.chain.keys import development_account
from viz.domain.shares import split_revenue
from viz.domain.units import AdapterId, Cid, Hash32, Units
from viz.errors import AdapterNotServable
from viz.protocol.custody import HANDED_PATH
from viz.services.adapters.publishing import Publication, Published
from viz.storage.cid import DAG_PB, RAW, cid_of, to_text
from viz.storage.sealing import MAGIC, new_identity, seal
from viz.storage.unixfs import Child, encode_node

TRAINER, SERVER, PAYER = 5, 6, 8
ROYALTY_BPS, TRAINER_BPS = 3_000, 1_000
PLAIN = b"the plain weight"


@dataclass
class Network:
    """A trainer's node with one adapter of its own, and a second node that may serve it."""

    net: Testnet
    trainer: RealNode
    server: RealNode
    work: CreatorsWork
    made: Published
    weights: bytes

    @property
    def adapter(self) -> AdapterId:
        return self.made.adapter_id

    async def permit(self, *, allowed: bool = True, node: str = "") -> tuple[int, Any]:
        """Run the operator's command at the trainer's node."""
        body = {
            "adapterId": int(self.adapter),
            "node": node or self.server.address,
            "allowed": allowed,
        }
        return await self.trainer.operate("POST", "/adapters/permissions", body)

    async def activate(self) -> tuple[int, Any]:
        """Run the operator's command at the second node."""
        return await self.activated(self.adapter)

    async def permitted(self, cid: Cid) -> AdapterId:
        """Register an adapter with these weights by fiat, and let the second node serve it."""
        state = await self.net.chain.adapter(self.adapter)
        assert state is not None
        sent = await self.net.done(
            self.trainer.sender,
            "AdapterRegistry",
            "register",
            state.base_model,
            b"\x02" * 32,
            cid,
            b"\x03" * 32,
            ROYALTY_BPS,
            TRAINER_BPS,
            [self.work.content_id << 16 | 10_000],
        )
        made = AdapterId(sent.event("AdapterRegistered").args["adapterId"])
        body = {"adapterId": int(made), "node": self.server.address, "allowed": True}
        assert (await self.trainer.operate("POST", "/adapters/permissions", body))[0] == 200
        return made

    async def activated(self, adapter: AdapterId) -> tuple[int, Any]:
        """Run the operator's command for an adapter at the second node."""
        return await self.server.operate("POST", "/adapters", {"adapterId": int(adapter)})

    def plain_here(self, node: RealNode) -> list[str]:
        """Return the files of a node that hold the plain weights."""
        return [name for name, data in node.files().items() if self.weights[-64:] in data]


@pytest_asyncio.fixture
async def network(net: Testnet, tmp_path: Path) -> AsyncIterator[Network]:
    work = await registered_work(net, tmp_path / "creator")
    await license_to(net, TRAINER, work)
    async with (
        real_node(net, tmp_path / "b", TRAINER) as trainer,
        real_node(net, tmp_path / "c", SERVER) as server,
    ):
        weights = fake_adapter_file(tmp_path / "adapter.safetensors")
        made = await trainer.parts.publishing.publish(
            Publication(
                weights,
                trainer.engine.model.digest,
                Hash32(b"\x0c" * 32),
                ROYALTY_BPS,
                TRAINER_BPS,
                [(work.content_id, 10_000)],
            )
        )
        await trainer.announce()
        yield Network(net, trainer, server, work, made, weights.read_bytes())


async def test_only_a_permitted_node_opens_and_serves_an_adapter(network: Network) -> None:
    """Before the trainer's word neither key nor plain byte; after it, what the chain names."""
    status, problem = await network.activate()
    assert (status, problem["code"]) == (403, "adapter-not-servable")
    assert network.plain_here(network.server) == []
    status, _ = await network.permit()
    assert status == 200
    status, offer = await network.activate()
    assert status == 201 and offer["model"] == f"viz-adapter-{network.adapter}", offer
    digest = network.made.weights_digest.hex()
    assert network.plain_here(network.server) == [f"adapters/{digest}.safetensors"]
    # What travels, and what each node keeps for others, is sealed.
    for node in (network.trainer, network.server):
        block = await node.blobs.block(network.made.cid)
        assert block.startswith(MAGIC)
    path = HANDED_PATH.format(kind="adapters", item_id=int(network.adapter))
    _, log = await network.trainer.call("GET", path)
    assert [each["requester"] for each in log["handed"]] == [network.server.address]
    # The second node keeps no key: it is no custodian.
    assert not (network.server.folder / "keys").exists()


async def test_a_revoked_node_gets_no_key_however_often_it_asks(
    net: Testnet, network: Network
) -> None:
    """The trainer ends the permission: the key is given no more, by either node's check."""
    assert (await network.permit())[0] == 200
    assert (await network.permit(allowed=False))[0] == 200
    await net.anvil.advance_time(8 * 24 * 3_600)
    for _ in range(3):
        status, problem = await network.activate()
        assert (status, problem["code"]) == (403, "adapter-not-servable")
    # Its own check aside, the trainer's node refuses it by the chain.
    state = await net.chain.adapter(network.adapter)
    assert state is not None
    with pytest.raises(AdapterNotServable) as caught:
        await network.server.parts.publishing._sealed.fetch(state, network.server.folder / "stolen")
    assert caught.value.answered
    assert network.plain_here(network.server) == []


async def test_permissions_are_the_trainers_alone(network: Network) -> None:
    """Another node's operator cannot permit, and an unknown adapter or itself is said."""
    body = {"adapterId": int(network.adapter), "node": network.server.address, "allowed": True}
    status, problem = await network.server.operate("POST", "/adapters/permissions", body)
    assert (status, problem["code"]) == (403, "adapter-not-servable")
    assert "only its trainer" in problem["detail"]
    status, problem = await network.trainer.operate(
        "POST", "/adapters/permissions", {**body, "adapterId": 99}
    )
    assert (status, problem["code"]) == (404, "unknown-adapter")
    for nobody in (network.trainer.address, "0x" + "00" * 20):
        status, problem = await network.permit(node=nobody)
        assert (status, problem["code"]) == (400, "invalid-request")


async def test_a_permission_that_is_there_costs_no_gas(network: Network) -> None:
    """Protects the trainer's coin from a command that is repeated; a revoked one is given anew.

    The same for revoking what was never permitted, is ending already, or has ended.
    """
    assert (await network.permit(allowed=False))[1]["hash"] is None
    first = (await network.permit())[1]
    again = (await network.permit())[1]
    assert first["hash"] and again["hash"] is None and again["serves"] is True
    ending = (await network.permit(allowed=False))[1]
    again = (await network.permit(allowed=False))[1]
    assert ending["hash"] and again["hash"] is None
    assert again["serves"] is True and again["servesUntil"] == ending["servesUntil"]
    assert (await network.permit())[1]["hash"]


async def test_a_trainer_that_is_not_listed_is_named(net: Testnet, network: Network) -> None:
    """Without an entry in the directory nobody can be asked, and the error says what to do."""
    await net.done(network.trainer.sender, "NodeDirectory", "remove")
    assert (await network.permit())[0] == 200
    status, problem = await network.activate()
    assert status == 404 and "no source has all" in problem["detail"]
    # The blob alone does not help.
    await network.server.blobs.add(await network.trainer.blobs.block(network.made.cid))
    status, problem = await network.activate()
    assert (status, problem["code"]) == (404, "key-unknown")
    assert "viz node announce" in problem["detail"] and network.plain_here(network.server) == []


async def test_wrong_weights_are_not_served(network: Network, tmp_path: Path) -> None:
    """A trainer that gives a key to other weights than the chain's digest gets nothing served."""
    other = fake_adapter_file(tmp_path / "other.safetensors", seed=9)
    cid = await network.trainer.parts.publishing._sealed.store(other)
    status, problem = await network.activated(await network.permitted(cid))
    assert (status, problem["code"]) == (502, "blob-corrupt")
    assert not [name for name in network.server.files() if name.startswith("adapters/")]


@pytest.mark.parametrize("wrong", ["cut", "other key"])
async def test_weights_that_do_not_open_leave_nothing(
    network: Network, tmp_path: Path, wrong: str
) -> None:
    """An age file that ends early, or is for another key: not a plain byte of it is on the disk,
    and nothing half-written."""
    plain, sealed, key = tmp_path / "plain", tmp_path / "sealed.age", new_identity()
    plain.write_bytes(PLAIN * (1 << 16))
    seal(plain, sealed, new_identity() if wrong == "other key" else key)
    if wrong == "cut":
        # Whole pieces of 64 KiB are left, which open: the missing end alone betrays it.
        os.truncate(sealed, sealed.stat().st_size // 2)
    cid = await network.trainer.blobs.add(sealed)
    await network.trainer.parts.custodian.keep_own(cid, key)
    adapter = await network.permitted(cid)
    before = {name for name in network.server.files() if "ledger" not in name}
    status, problem = await network.activated(adapter)
    assert (status, problem["code"]) == (502, "seal-broken"), problem
    after = network.server.files()
    assert {name for name in after if "ledger" not in name} == before
    assert not [name for name, data in after.items() if PLAIN in data]


async def test_weights_that_claim_two_gigabytes_are_not_fetched(
    net: Testnet, network: Network
) -> None:
    """The root alone is read: the refusal names the setting, and nothing comes onto the disk."""
    leaf = cid_of(RAW, b"never asked for")
    claimed = encode_node([Child(leaf, 2 * 1024**3, 2 * 1024**3)])
    root = to_text(cid_of(DAG_PB, claimed))
    asked: list[str] = []

    async def one_block(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(body=claimed)

    adapter = await network.permitted(root)
    before = {name for name in network.server.files() if "ledger" not in name}
    async with liar({"/ipfs/": one_block}) as url:
        await listed(net, 9, url)
        status, problem = await network.activated(adapter)
    assert (status, problem["code"]) == (413, "blob-too-large"), problem
    assert "storage.max_blob_bytes" in problem["detail"] and str(2 * 1024**3) in problem["detail"]
    assert asked == [f"/ipfs/{root}"]
    assert {name for name in network.server.files() if "ledger" not in name} == before


@asynccontextmanager
async def buying(network: Network, home: Path) -> AsyncIterator[BuyerClient]:
    """Connect a buyer to the second node."""
    async with aiohttp.ClientSession() as http:
        client = await BuyerClient.connect(
            http,
            network.server.url,
            home=home,
            password="correct horse",
            expected=network.net.deployment,
            clock=SystemClock(),
            scrypt_n=2,
        )
        try:
            yield client
        finally:
            await client.aclose()


async def test_the_second_nodes_claims_are_split_to_the_unit(
    net: Testnet, network: Network, tmp_path: Path
) -> None:
    """Royalty to the work's owner, its part to the trainer, the rest to the node that served."""
    await network.permit()
    assert (await network.activate())[0] == 201
    await net.mint(development_account(PAYER).address, 10**6)  # type: ignore[arg-type]
    async with buying(network, tmp_path / "buyer") as client:
        await client.open_channel(bytes(development_account(PAYER).key), 500_000)
        body = {
            "model": f"viz-adapter-{network.adapter}",
            "messages": [{"role": "user", "content": "When is the lamp lit?"}],
            "max_tokens": 24,
        }
        async with client.ask(body) as answer:
            async for _ in answer:
                pass
    before = await parts(net, network)
    status, report = await network.server.operate("POST", "/settle", {})
    assert status == 200, report
    channel = await net.chain.channel(client.signer, network.server.address)
    assert channel is not None
    paid = channel.settled_units
    assert paid > 0
    split = split_revenue(0, paid, royalty_bps=ROYALTY_BPS, trainer_bps=TRAINER_BPS)
    after = await parts(net, network)
    gained = [now - then for now, then in zip(after, before, strict=True)]
    assert gained == [split.to_contents_units, split.to_trainer_units, split.to_node_units]
    # Each part is rounded down once: at most two units wait for the next claim (invariant S3).
    assert 0 <= paid - sum(gained) <= 2


async def parts(net: Testnet, network: Network) -> list[Units]:
    """Return what the work's owner, the trainer and the serving node are due or have."""
    owner = net.sender(network.work.account).address
    royalties = await net.chain.undistributed(network.adapter)
    return [
        royalties + await net.chain.token_balance(owner),
        await net.chain.collectable(network.trainer.address),
        await net.chain.collectable(network.server.address),
    ]
