"""Notices on a real chain, as people type them: the work's owner there is who has standing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fakes.engine import fake_adapter_file
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.test_commands import PASSWORD, Done, operated, typed

from viz.basemodel.safetensor_file import file_digest
from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file, development_account
from viz.domain.ports.ledger import AdapterRecord, OfferedWork
from viz.domain.units import AdapterId, Address, ContentId, Hash32, Units
from viz.protocol.market import MarketModel, MarketOffer, MarketWork
from viz.services.market.market_index import MarketIndex

OWNER, SELLER, OTHER, STRANGER = 1, 5, 6, 7


@pytest_asyncio.fixture
async def node(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    """A node that sells adapter 1, made of work 1 of the owner."""
    async with real_node(net, tmp_path / "node", SELLER) as running:
        work = await net.register_work(net.sender(OWNER))
        adapter_id = AdapterId(await net.register_adapter(running.sender, [work]))
        await sell(net, running, adapter_id, work, tmp_path)
        yield running


async def sell(
    net: Testnet, node: RealNode, adapter_id: AdapterId, work: ContentId, folder: Path
) -> None:
    """Put the adapter on offer at a node."""
    file = fake_adapter_file(folder / "adapter.safetensors")
    await node.engine.add_adapter(adapter_id, file)
    state = await net.chain.adapter(adapter_id)
    assert state is not None
    record = AdapterRecord(
        adapter_id, "tides", "", node.engine.model.digest, file_digest(file), state.cid,
        state.manifest_hash, str(file), 1, 1, 1, (OfferedWork(work, "Tides"),),
    )  # fmt: skip
    await node.parts.catalogue.add(record)


def market_of(*sellers: tuple[Address, str]) -> MarketIndex:
    """Return a market in which these nodes sell adapter 1, as they are called there."""
    offers = tuple(MarketOffer(node, url, Units(1), Units(1), 512, 1, 1) for node, url in sellers)
    model = MarketModel(
        AdapterId(1), "viz-adapter-1", Hash32(bytes(32)), Hash32(bytes(32)), sellers[0][0],
        works=(MarketWork(ContentId(1), 10_000),), offers=offers,
    )  # fmt: skip
    return MarketIndex([model], len(offers), 1)


class Notifier:
    """A development account with a key file, and what it types."""

    def __init__(self, folder: Path, net: Testnet, account: int) -> None:
        folder.mkdir()
        save_deployment(folder / "deployment.json", net.deployment)
        create_key_file(
            folder / "key.json", PASSWORD, account=development_account(account), scrypt_n=2
        )
        self.folder = folder

    async def tell(self, node: RealNode, *words: object) -> Done:
        return await typed(
            "content", "notice", "It has my address.", "--node", node.url, "--yes",
            "--key", self.folder / "key.json", "--data-dir", self.folder, *words,
        )  # fmt: skip


async def test_the_owner_on_chain_suspends_and_a_stranger_waits(
    net: Testnet, node: RealNode, tmp_path: Path
) -> None:
    """Both send the same notice by the same command; the chain decides what it does."""
    stranger = Notifier(tmp_path / "stranger", net, STRANGER)
    owner = Notifier(tmp_path / "owner", net, OWNER)
    evidence = tmp_path / "letter.txt"
    evidence.write_text("a letter")
    done = await stranger.tell(
        node, "--adapter", 1, "--kind", "personal-data", "--evidence", evidence
    )
    assert done.exit_code == 0, done.output
    assert "answered within  14 days, or 3 days if about personal data" in done.stdout
    assert "if the operator has not answered by then" in done.stdout
    assert (await node.call("GET", "/v1/models/viz-adapter-1"))[0] == 200
    done = await typed("content", "show", 1, "--node", node.url, "--data-dir", tmp_path / "x")
    assert done.exit_code == 0 and "notices" not in done.stdout, "it is about the adapter"

    done = await owner.tell(node, "--work", 1, "--kind", "personal-data", "--json")
    assert done.exit_code == 0, done.output
    kept = json.loads(done.stdout)
    assert kept["standing"] and kept["effectiveAt"] == kept["receivedAt"]
    status, problem = await node.call("GET", "/v1/models/viz-adapter-1")
    assert (status, problem["code"], problem["noticeId"]) == (451, "adapter-suspended", 2)
    done = await typed("content", "show", 1, "--node", node.url, "--data-dir", tmp_path / "x")
    assert "one unanswered: personal-data" in done.stdout

    done = await operated(node, "notice", "list", "--open")
    assert done.exit_code == 0 and "an owner or you" in done.stdout
    done = await operated(node, "notice", "show", 1)
    assert "It has my address." in done.stdout and "SHA-256 0x" in done.stdout
    done = await operated(node, "notice", "answer", 2, "reject", "--reason", "It names nobody.")
    assert done.exit_code == 0 and "rejected" in done.stdout, done.output
    assert (await node.call("GET", "/v1/models/viz-adapter-1"))[0] == 200
    done = await operated(node, "notice", "answer", 1, "uphold", "--reason", "It does.")
    assert (await node.call("GET", "/v1/models/viz-adapter-1"))[0] == 451
    done = await typed("adapter", "show", 1, "--node", node.url)
    assert "by notice 1 (personal-data)" in done.stdout
    assert "no date is set" in done.stdout, "the chain's largest number is no date"


async def test_one_command_suspends_at_every_node_that_sells_the_adapter(
    net: Testnet, node: RealNode, tmp_path: Path
) -> None:
    """Each node gets a notice of its own, verifies it, and decides; one that is down is told."""
    async with real_node(net, tmp_path / "other", OTHER) as other:
        await net.done(node.sender, "AdapterRegistry", "setServing", 1, other.address, True)
        await sell(net, other, AdapterId(1), ContentId(1), tmp_path / "other")
        for each in (node, other):
            each.parts.discovery.index = market_of(
                (node.address, node.url), (other.address, other.url)
            )
        stranger = Notifier(tmp_path / "stranger", net, STRANGER)
        words = ("--adapter", 1, "--kind", "personal-data", "--everywhere")
        refused = await stranger.tell(node, *words, "--json")
        assert refused.exit_code != 0 and "1 node was not told" in refused.stderr, refused.output
        said = json.loads(refused.stdout)
        assert [each["url"] for each in said["notices"]] == [node.url]
        assert [each["url"] for each in said["notTold"]] == [other.url], "a private address"
        assert not other.parts.notices.all()

        owner = Notifier(tmp_path / "owner", net, OWNER)
        done = await owner.tell(node, *words, "--private-addresses")
        assert done.exit_code == 0, done.output
        assert done.stdout.count("answered within") == done.stdout.count("received") == 2
        assert f"{other.address}  at {other.url}" in done.stdout
        for each in (node, other):
            assert (await each.call("GET", "/v1/models/viz-adapter-1"))[0] == 451
            assert each.parts.notices.all()[-1].notice.node == each.address


async def test_a_market_that_names_false_nodes_gets_no_notice_to_them(
    net: Testnet, node: RealNode, tmp_path: Path
) -> None:
    """A node has to answer under the address that the market gives it."""
    async with real_node(net, tmp_path / "other", OTHER) as other:
        node.parts.discovery.index = market_of(
            (node.address, node.url),
            (net.sender(8).address, other.url),
            (net.sender(9).address, "http://127.0.0.1:1"),
        )
        owner = Notifier(tmp_path / "owner", net, OWNER)
        done = await owner.tell(
            node, "--adapter", 1, "--kind", "other", "--everywhere", "--private-addresses"
        )
        assert done.exit_code != 0 and "2 nodes were not told" in done.stderr, done.output
        assert "another node answers there" in done.stdout
        assert len(node.parts.notices.all()) == 1 and not other.parts.notices.all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--adapter", 9, "--kind", "other"), "adapter 9 is not served here"),
        (("--work", 9, "--kind", "other"), "there is no work 9"),
        (("--adapter", 1, "--work", 1, "--kind", "other"), "--adapter or --work"),
        (("--kind", "other"), "--adapter or --work"),
        (("--adapter", 1, "--kind", "rude"), "Invalid value"),
        (("--adapter", 1, "--kind", "other", "--evidence", "/none"), "cannot be read"),
        (("--adapter", 1, "--kind", "other", "--evidence", "/dev/zero"), "a pipe or a device"),
    ],
)
async def test_a_wrong_notice_is_told(
    net: Testnet, node: RealNode, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    """Each names what to do, and nothing is kept."""
    notifier = Notifier(tmp_path / "notifier", net, STRANGER)
    done = await notifier.tell(node, *words)
    assert done.exit_code != 0 and said in done.stderr
    assert not node.parts.notices.all()


async def test_another_chain_s_deployment_signs_nothing_for_this_node(
    net: Testnet, node: RealNode, tmp_path: Path
) -> None:
    """The notifier's own file says for which chain it signs; a node of another one is left."""
    notifier = Notifier(tmp_path / "notifier", net, STRANGER)
    file = notifier.folder / "deployment.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "chain_id": 424_242}))
    done = await notifier.tell(node, "--adapter", 1, "--kind", "other")
    assert done.exit_code == 12 and "node-not-trusted" in done.stderr, done.output
    assert not node.parts.notices.all()
