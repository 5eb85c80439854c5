"""Three nodes with a real engine on a real chain: a buyer without a URL survives one of them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.fakes.tiny_base import make_tiny_directory, write_random_adapter
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.works import CreatorsWork, license_to, registered_work
from tests.integration.services.claiming import SystemClock

from viz.basemodel.policy import QuantisationPolicy
from viz.basemodel.safetensor_file import write_file
from viz.basemodel.source import LoadedBase, load_base
from viz.buyer.network.budget import Budget
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.network.failover import NetworkAnswer
from viz.buyer.network.opening import NetworkSources, network_buyer
from viz.buyer.terms.prices import limits_in
from viz.buyer.wallet.wallet import KeyWallet
from viz.chain.keys import development_account
from viz.domain.shares import split_revenue
from viz.domain.units import AdapterId, Address, Hash32, Units, parse_address
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.protocol.market import MARKET_PATH, MarketPage
from viz.services.adapters.publishing import Publication

OTHER, TRAINER, SERVER, PAYER = 4, 5, 6, 8
ROYALTY_BPS, TRAINER_BPS = 3_000, 1_000
DEPOSIT, FUNDS = 60_000, 10**6
PASSWORD = "correct horse"
TOKENS, CUT_AFTER = 80, 30


def ascii_base(folder: Path, policy: QuantisationPolicy) -> LoadedBase:
    """Return the tiny base, made to write printable letters alone, so that text is its tokens."""
    from safetensors.torch import load_file

    directory = make_tiny_directory(folder / "tiny")
    weights = load_file(directory / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    for token in range(rows.shape[0]):
        if not 0x20 <= token - 3 < 0x7F:
            rows[token] *= 0.01
    write_file(directory / "model.safetensors", weights, {"format": "pt"})
    return load_base(directory, cache_dir=folder / "cache", policy=policy)


@dataclass
class Network:
    """A node that serves the base alone, the trainer's node, and one that may serve its adapter."""

    net: Testnet
    other: RealNode
    trainer: RealNode
    server: RealNode
    work: CreatorsWork
    adapter: AdapterId
    home: Path

    @property
    def model(self) -> str:
        return f"viz-adapter-{self.adapter}"

    def buyer(self, *only: Address) -> Any:
        """Return a context of a buyer that knows nothing but its chain."""
        wallet = KeyWallet(bytes(development_account(PAYER).key))
        sources = NetworkSources((), self.net.chain, private_addresses=True)
        return network_buyer(
            self.net.deployment,
            sources,
            home=self.home,
            password=PASSWORD,
            budget=Budget(DEPOSIT, nodes=frozenset(only)),
            limits=limits_in(self.net.deployment),
            wallet=wallet,
            clock=SystemClock(),
            scrypt_n=2,
        )


@pytest_asyncio.fixture
async def network(net: Testnet, tmp_path: Path) -> AsyncIterator[Network]:
    base = ascii_base(tmp_path, QuantisationPolicy(keep=("*",)))
    settings = EngineSettings(
        max_streams=2, context_tokens=512, compute="float32", compile=False, threads=1
    )
    work = await registered_work(net, tmp_path / "creator")
    await license_to(net, TRAINER, work)
    async with AsyncExitStack() as ends:
        nodes: list[RealNode] = []
        for name, account in (("a", OTHER), ("b", TRAINER), ("c", SERVER)):
            engine = await EmbeddedEngine.start(base, settings)
            made = real_node(net, tmp_path / name, account, engine=engine)
            nodes.append(await ends.enter_async_context(made))
        other, trainer, server = nodes
        weights = tmp_path / "adapter.safetensors"
        write_random_adapter(weights, base, rank=4, seed=3)
        published = await trainer.parts.publishing.publish(
            Publication(
                weights,
                base.digest,
                Hash32(b"\x0c" * 32),
                ROYALTY_BPS,
                TRAINER_BPS,
                [(work.content_id, 10_000)],
            )
        )
        for node in nodes:
            status, said = await node.operate("POST", "/announcement", {"url": node.url})
            assert status == 200, said
        adapter = published.adapter_id
        permission = {"adapterId": int(adapter), "node": server.address, "allowed": True}
        # So much that no latency which the buyer measured there makes up for it.
        dearer = {"promptPrice": "16000000", "completionPrice": "48000000"}
        for node, path, body in (
            (trainer, "/adapters/permissions", permission),
            (trainer, "/adapters", {"adapterId": int(adapter), "name": "lamps"}),
            (server, "/adapters", {"adapterId": int(adapter), "name": "lamps", **dearer}),
        ):
            status, said = await node.operate("POST", path, body)
            assert status < 300, said
        await net.mint(parse_address(str(development_account(PAYER).address)), FUNDS)
        home = tmp_path / "buyer"
        tokenizer = home / "tokenizers" / "tiny"
        tokenizer.mkdir(parents=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tmp_path / "tiny" / name, tokenizer / name)
        yield Network(net, other, trainer, server, work, adapter, home)


async def ask(
    buyer: NetworkBuyer,
    model: str,
    end: Callable[[], Awaitable[None]] | None = None,
    tokens: int = TOKENS,
) -> NetworkAnswer:
    """Ask, and ``end`` a node when a part of the answer came."""
    messages = [{"role": "user", "content": "When is the lamp lit?"}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}
    async with buyer.ask(body) as answer:
        async for _ in answer:
            if end is not None and len(answer.text) >= CUT_AFTER:
                await end()
                end = None
    return answer


async def test_nodes_know_each_other_by_the_chain_alone(network: Network) -> None:
    """Who serves what is found from the directory by every node, with works and shares."""
    await network.other.parts.discovery.step()
    _, said = await network.other.call("GET", f"{MARKET_PATH}?q=lamps")
    (model,) = MarketPage.from_json(said).models
    assert [each.node for each in model.offers] == [
        network.trainer.address,
        network.server.address,
    ]
    assert (model.trainer, model.told_by) == (network.trainer.address, network.trainer.address)
    assert [(work.content_id, work.share_bps) for work in model.works] == [
        (network.work.content_id, 10_000)
    ]
    status, _ = await network.server.operate("DELETE", "/announcement")
    await network.other.parts.discovery.step()
    _, said = await network.other.call("GET", f"{MARKET_PATH}?q=lamps")
    (model,) = MarketPage.from_json(said).models
    assert status == 200 and [each.node for each in model.offers] == [network.trainer.address]


async def test_an_answer_survives_its_node_and_the_money_is_right_to_the_unit(
    net: Testnet, network: Network
) -> None:
    """B is cut off in mid-stream. C goes on: the text is that of an unbroken answer, what came
    before is paid as prompt, and the chain pays works, trainer and nodes as it was billed."""
    fee = await net.chain.token_balance(net.sender(network.work.account).address)
    async with network.buyer(network.server.address) as buyer:
        whole = await ask(buyer, network.model)
    assert [part.node for part in whole.parts] == [network.server.address]
    assert whole.parts[0].completion_tokens == TOKENS == len(whole.text)
    async with network.buyer() as buyer:
        answer = await ask(buyer, "lamps", network.trainer.cut)
    first, second = answer.parts
    assert (first.node, second.node) == (network.trainer.address, network.server.address)
    assert answer.text == whole.text, "greedy text is one function of adapter and context"
    asked = whole.parts[0].prompt_tokens
    assert CUT_AFTER <= first.completion_tokens < TOKENS
    assert second.prompt_tokens == asked + first.completion_tokens
    assert second.completion_tokens == TOKENS - first.completion_tokens
    assert answer.usage == {
        "prompt_tokens": asked,
        "completion_tokens": TOKENS,
        "total_tokens": asked + TOKENS,
    }
    claimed = await claimed_by(net, network)
    at_server = whole.parts[0].units + second.units
    assert claimed[network.server.address] == at_server
    assert asked * 2 <= claimed[network.trainer.address] <= first.units
    people = (network.trainer.address, network.server.address)
    await accounts_hold(net, network.adapter, network.work, people, claimed, fee)


async def claimed_by(net: Testnet, network: Network) -> dict[Address, Units]:
    """Have both nodes claim; return what the chain settled at each."""
    found: dict[Address, Units] = {}
    for node in (network.trainer, network.server):
        await node.parts.settlement.step(force=True)
        rows = await node.store.channels()
        settled = 0
        for row in rows:
            channel = await net.chain.channel(row.signer, node.address)
            assert channel is not None
            settled += channel.settled_units
        found[node.address] = settled
    return found


async def accounts_hold(
    net: Testnet,
    adapter: AdapterId,
    work: CreatorsWork,
    people: tuple[Address, Address],
    claimed: dict[Address, Units],
    fee: Units,
) -> None:
    """Check who is owed what, and that Settlement holds what it owes and no unit less.

    ``people`` are the trainer and the second server, where the payer deposited DEPOSIT each;
    ``fee`` is what the work's owner had before: the training fee.
    """
    trained_by, served_by = people
    total = sum(claimed.values())
    shares = split_revenue(0, total, royalty_bps=ROYALTY_BPS, trainer_bps=TRAINER_BPS)
    royalties = await net.chain.undistributed(adapter)
    owner = net.sender(work.account).address
    distributed = await net.chain.token_balance(owner) - fee
    royalties += distributed
    trainer = await net.chain.collectable(trained_by)
    server = await net.chain.collectable(served_by)
    assert abs(royalties - shares.to_contents_units) <= 2
    # The trainer has its part of both nodes' revenue, and of its own node's the serving part.
    assert abs(royalties + trainer + server - total) <= 4
    served = split_revenue(0, claimed[served_by], royalty_bps=ROYALTY_BPS, trainer_bps=TRAINER_BPS)
    assert abs(server - served.to_node_units) <= 2
    payer = parse_address(str(development_account(PAYER).address))
    left = await net.chain.token_balance(payer)
    held = await net.chain.token_balance(net.deployment.settlement)
    spent = FUNDS - left
    assert spent == 2 * DEPOSIT and held == spent - distributed
