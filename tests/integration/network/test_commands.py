"""A creator and two operators type their commands: nobody hands anybody a file."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.integration.api.harness import OPERATOR_TOKEN
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.creator.known_custodians import KnownCustodians
from viz.domain.display import moment
from viz.domain.units import AdapterId, ContentId, parse_address
from viz.protocol.listing import CustodianAddress
from viz.services.custody.custodian import CustodyPolicy

ROOT = Path(__file__).parents[3]
PASSWORD = "correct horse"
CUSTODIAN, TRAINER, OTHER = 5, 6, 7
STORY = "The tide comes in twice a day, and takes the same stone.\n\n"
TERMS = """
title = "Story"
kind = "text"
file = "story.txt"
credit = "Alma Reyes"
language = "en"
[terms]
training_fee = "0.00"
min_royalty_bps = 800
duration_s = 31536000
notice_s = 604800
revocation_class = 2
uses = ["train", "embody", "serve"]
needs_approval = false
[license]
text = "Name me, and pay."
"""


class Creator:
    """A creator's folder and what it types."""

    def __init__(self, folder: Path, net: Testnet) -> None:
        (folder / "work").mkdir(parents=True)
        (folder / "work" / "terms.toml").write_text(TERMS)
        (folder / "work" / "story.txt").write_text(STORY * 50)
        save_deployment(folder / "deployment.json", net.deployment)
        self.account = create_key_file(folder / "key.json", PASSWORD, scrypt_n=2)
        self.folder, self.net = folder, net

    async def viz(self, *words: object) -> Done:
        """Run a command that signs."""
        more = ["--key", self.folder / "key.json", "--data-dir", self.folder, "--yes"]
        return await typed(*words, *more)

    async def json(self, *words: object) -> Any:
        done = await self.viz(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Done:
    """What a command said, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


async def typed(*words: object) -> Done:
    """Run a command in a process of its own: the nodes' log is not its output."""
    unset = {"VIZ_RPC_URL", "VIZ_NODE_URL", "VIZ_DATA_DIR"}
    given = {name: value for name, value in os.environ.items() if name not in unset}
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "viz",
        *(str(word) for word in words),
        cwd=ROOT,
        env={**given, "PYTHONPATH": "node", "VIZ_KEY_PASSWORD": PASSWORD, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(running.communicate(), 60)
    return Done(running.returncode or 0, out.decode(), err.decode())


async def operated(node: RealNode, *words: object) -> Done:
    """Run an operator's command at a node."""
    (node.folder / "operator.token").write_text(OPERATOR_TOKEN)
    return await typed(*words, "--node", node.url, "--data-dir", node.folder)


@pytest_asyncio.fixture
async def custodian(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "a", CUSTODIAN) as running:
        yield running


@pytest_asyncio.fixture
async def trainer(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "b", TRAINER) as running:
        yield running


async def test_a_creator_uploads_once_and_a_trainer_needs_the_id_alone(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """Register at A; license, fetch and plan a training at B; the owner sees who has the key."""
    creator = Creator(tmp_path / "alma", net)
    await custodian.announce()
    done = await creator.viz(
        "content", "register", creator.folder / "work", "--node", custodian.url,
        "--rpc", net.anvil.url,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"{custodian.address}  at {custodian.url}, gets the sealed work" in done.stdout
    assert "registered  work 1: Story  (as the chain has it)" in done.stdout
    assert "held by" in done.stdout and "story.txt.age.key" in done.stdout
    _, listed = await custodian.call("GET", "/viz/v1/listings/1")
    assert (listed["listing"]["credit"], listed["listing"]["language"]) == ("Alma Reyes", "en")

    told = await creator.viz(
        "content", "notice", "It is ours.", "--kind", "copyright", "--work", 1,
        "--node", custodian.url,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    done = await typed("content", "keys", 1, "--node", custodian.url)
    assert f"no key of work 1. Its listing names as custodians: {custodian.url}" in done.stdout
    assert "A custodian has the key itself" in done.stdout, "nobody has it would be untrue"
    done = await operated(trainer, "content", "license", 1)
    assert done.exit_code == 0, done.output
    assert "work 1  Story: train it with its id" in done.stdout
    assert "notice" not in done.stderr, "its listing was not known here before"
    kept = trainer.folder / "works" / "1" / "work.txt"
    assert kept.read_text() == STORY * 50
    done = await operated(trainer, "train", 1, "--dry-run")
    assert done.exit_code == 0 and "rows to learn" in done.stdout, done.output
    done = await operated(trainer, "train", 1, "--royalty-bps", 700)
    assert "work 1: notice 1 (copyright) of " in done.stderr and custodian.url in done.stderr
    assert done.exit_code == 7 and "--royalty-bps (royaltyBps) to at least 800" in done.stderr
    done = await operated(trainer, "training", "list", "--json")
    assert json.loads(done.stdout) == {"trainings": []}
    for words, hits in (("alma TIDE", False), ("Story alma", True), ("en", True)):
        done = await typed("content", "search", *words.split(), "--node", custodian.url, "--json")
        assert done.exit_code == 0, done.output
        assert [each["contentId"] for each in json.loads(done.stdout)] == ([1] if hits else [])
    done = await typed("content", "keys", 1, "--node", custodian.url)
    assert done.exit_code == 0 and trainer.address[:20] in done.stdout, done.output
    done = await typed("content", "keys", 99, "--node", custodian.url)
    assert "handed out no key of work 99, and keeps no listing of it" in done.stdout, done.output


async def test_a_near_copy_is_told_before_it_is_signed(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """Protects a creator whose text is registered already, by whomever: told, and not forbidden."""
    creator = Creator(tmp_path / "alma", net)
    words = ["content", "register", creator.folder / "work", "--node", custodian.url]
    first = await creator.viz(*words, "--rpc", net.anvil.url)
    assert first.exit_code == 0 and "listed works" not in first.stdout
    copied = Creator(tmp_path / "ben", net)
    text = copied.folder / "work" / "story.txt"
    text.write_text(STORY * 50 + "And this is new.\n")
    words[2] = copied.folder / "work"
    done = await typed(
        *words, "--key", copied.folder / "key.json", "--data-dir", copied.folder
    )  # no terminal to agree on: nothing is signed, and it is told all the same
    assert done.exit_code == 4 and "These listed works share passages" in done.stdout, done.output
    assert "work 1  Story, Alma Reyes: " in done.stdout
    text.write_text(" ".join(f"Quite other words of number {n}." for n in range(400)))
    done = await copied.viz(*words, "--rpc", net.anvil.url)
    assert done.exit_code == 0 and "listed works" not in done.stdout


async def test_a_license_without_a_work_at_hand_says_why(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """Registered --offline, a work is not paid for in vain; its file comes from its creator."""
    creator = Creator(tmp_path / "alma", net)
    said = await creator.json(
        "content", "register", creator.folder / "work", "--node", custodian.url, "--offline",
        "--rpc", net.anvil.url,
    )  # fmt: skip
    assert said["contentId"] == 1 and said["sealed"] is None
    assert not (custodian.folder / "keys").exists()
    done = await operated(trainer, "content", "license", 1)
    assert done.exit_code == 4, done.output
    assert "ask its owner" in done.stderr and "Nothing was paid for work 1" in done.stderr
    assert await net.chain.grant(ContentId(1), trainer.address) is None
    done = await operated(trainer, "content", "license", 9)
    assert done.exit_code == 7 and "there is no work 9" in done.stderr
    done = await operated(trainer, "content", "license", 1, "--offline")
    assert done.exit_code == 0 and not done.stderr, "the grant is all that was asked for"
    done = await operated(trainer, "content", "license", 1)
    assert done.exit_code == 4, done.output
    assert "work 1 is licensed, and its file is not here" in done.stderr
    assert "ask its owner" in done.stderr and "does not pay again" in done.stderr
    done = await operated(trainer, "content", "license", 1, "--json")
    assert done.exit_code == 4 and json.loads(done.stdout)[0]["live"] is True


async def test_more_custodians_and_other_words_come_later(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """A second call hands the same blob to another node, and the newest listing names both."""
    creator = Creator(tmp_path / "alma", net)
    way = ("--rpc", net.anvil.url)
    place = creator.folder / "work"
    early = await creator.viz("content", "publish", place, "--node", custodian.url)
    assert early.exit_code == 4 and "register it first" in early.stderr
    said = await creator.json("content", "register", place, "--node", custodian.url, *way)
    first = said["sealed"]["cid"]
    (creator.folder / "sample.txt").write_text("The tide comes in twice a day.")
    await asyncio.sleep(1.1)  # a listing's time counts in seconds
    again = await creator.json(
        "content", "publish", place, "--custodian", custodian.url, "--custodian", trainer.url,
        "--sample", creator.folder / "sample.txt", "--language", "en-GB",
    )  # fmt: skip
    assert again["cid"] == first
    for node in (custodian, trainer):
        _, found = await node.call("GET", "/viz/v1/listings/1")
        listing = found["listing"]
        assert listing["language"] == "en-GB" and listing["sample"].startswith("The tide")
        assert [each["url"] for each in listing["custodians"]] == [custodian.url, trainer.url]
        assert await node.blobs.has(first)
    assert again["unlisted"] == []


async def test_a_custodian_that_a_listing_names_no_more_is_told(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """It still holds the key, and `end-custody` asks those of the listing: its owner must know."""
    creator = Creator(tmp_path / "alma", net)
    place, way = creator.folder / "work", ("--rpc", net.anvil.url)
    said = await creator.viz("content", "register", place, "--node", custodian.url, *way)
    assert said.exit_code == 0 and "not listed" not in said.stdout, said.output
    await asyncio.sleep(1.1)  # a listing's time counts in seconds
    moved = await creator.viz("content", "publish", place, "--custodian", trainer.url)
    assert moved.exit_code == 0, moved.output
    told = " ".join(moved.stdout.split())
    assert f"end-custody 1 --custodian {custodian.url}" in told
    async with real_node(net, tmp_path / "full", OTHER, custody=CustodyPolicy(0, 0)) as full:
        failed = await creator.viz(
            "content", "publish", place, "--custodian", trainer.url, "--custodian", full.url
        )
    assert failed.exit_code != 0 and f"held by {trainer.address}" in failed.stderr, failed.output
    again = await creator.json("content", "publish", place, "--custodian", trainer.url)
    assert [each["url"] for each in again["unlisted"]] == [custodian.url], "not who refused it"
    nobody = await creator.viz("content", "publish", place, "--custodian", "http://127.0.0.1:9")
    assert nobody.exit_code == 12 and "--direct" not in nobody.stderr, "publish has no --direct"
    ended = await creator.viz("content", "end-custody", 1, "--node", trainer.url)
    assert custodian.url in ended.stdout and trainer.url in ended.stdout
    assert ended.stdout.count("signed by") == 2, "both destroyed it, and both said so"


async def test_who_holds_the_work_no_more_is_asked_and_named_no_more(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """One that answers that it never held it is forgotten; one that does not answer is not.

    A custodian that is named twice counts once, and one whose custody was ended does not come back
    from the listing beside the work.
    """
    creator = Creator(tmp_path / "alma", net)
    place, way = creator.folder / "work", ("--rpc", net.anvil.url)
    twice = ("--custodian", custodian.url, "--custodian", custodian.url + "/")
    said = await creator.json("content", "register", place, "--node", custodian.url, *twice, *way)
    assert [each["url"] for each in said["sealed"]["custodians"]] == [custodian.url]
    known = KnownCustodians(creator.folder, net.deployment, ContentId(1))
    # Their hand-overs were killed before anything was sent; one of them is away for now.
    away = CustodianAddress(parse_address(net.sender(OTHER).address), "http://127.0.0.1:9")
    known.add([CustodianAddress(trainer.address, trainer.url), away])
    ended = await creator.viz("content", "end-custody", 1, "--node", custodian.url)
    assert ended.exit_code != 0 and ended.stdout.count("signed by") == 1, ended.output
    assert "never was destroyed here" in ended.stderr and "127.0.0.1:9" in ended.stderr
    assert known.all() == (away,)
    await asyncio.sleep(1.1)  # a listing's time counts in seconds
    again = await creator.json("content", "publish", place, "--custodian", trainer.url)
    assert [each["url"] for each in again["unlisted"]] == [away.url]
    ended = await creator.viz(
        "content", "end-custody", 1, "--custodian", trainer.url, "--custodian", trainer.url
    )
    assert ended.exit_code == 0 and ended.stdout.count("signed by") == 1, ended.output


async def test_a_refused_publication_changes_nothing(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """A wrong license or key is found before anything is sealed: trainers still get what they pay.

    The node and the chain itself say the same; the files beside the work and the custody stay.
    """
    creator = Creator(tmp_path / "alma", net)
    place = creator.folder / "work"
    said = await creator.json(
        "content", "register", place, "--node", custodian.url, "--rpc", net.anvil.url
    )
    made = await typed(
        "license", "new", place, "--preset", "research", "--name", "Alma Reyes", "--language", "en",
        "--law", "Spain", "--contact", "mailto:alma@example.org",
        "--wallet", creator.account.address,
        "--out", creator.folder / "other.toml", "--data-dir", creator.folder,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    before = {each.name: each.read_bytes() for each in place.iterdir()}
    held = await custodian.call("GET", "/viz/v1/listings/1")
    for way in ((), ("--rpc", net.anvil.url)):
        refused = await creator.viz(
            "content", "publish", place, "--license", creator.folder / "other.toml",
            "--custodian", custodian.url, *way,
        )  # fmt: skip
        assert refused.exit_code == 7, refused.output
        assert "license-mismatch" in refused.stderr and "nothing was sealed" in refused.stderr
    create_key_file(creator.folder / "another.json", PASSWORD, scrypt_n=2)
    stranger = await typed(
        "content", "publish", place, "--key", creator.folder / "another.json",
        "--data-dir", creator.folder, "--yes", "--custodian", custodian.url,
    )  # fmt: skip
    assert stranger.exit_code == 7 and "you are not the owner" in stranger.stderr
    assert {each.name: each.read_bytes() for each in place.iterdir()} == before
    assert await custodian.call("GET", "/viz/v1/listings/1") == held
    assert await custodian.blobs.has(said["sealed"]["cid"])


async def test_a_custodian_that_refuses_leaves_a_registration_to_go_on_with(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """The registration stays; the error says how to go on, and no second one is made."""
    creator = Creator(tmp_path / "alma", net)
    place, way = creator.folder / "work", ("--rpc", net.anvil.url)
    async with real_node(net, tmp_path / "full", OTHER, custody=CustodyPolicy(0, 0)) as full:
        refused = await creator.viz(
            "content", "register", place, "--node", custodian.url, "--custodian", full.url, *way
        )
    assert refused.exit_code != 0 and "do not register it again" in refused.stderr
    assert await net.chain.content(ContentId(1)) is not None
    going_on = await creator.json("content", "publish", place, "--custodian", custodian.url)
    assert going_on["contentId"] == 1 and await net.chain.content_count() == 1


async def test_a_custodian_that_is_not_there_is_found_before_anything_is_signed(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """Nothing is registered, and --offline with a custodian contradicts itself."""
    creator = Creator(tmp_path / "alma", net)
    place, way = creator.folder / "work", ("--node", custodian.url, "--rpc", net.anvil.url)
    for says, wrong in (
        ("--offline instead of --custodian", ("--custodian", "http://127.0.0.1:9")),
        ("", ("--custodian", custodian.url.replace("127.0.0.1", "localhost"))),
        ("leave out --offline", ("--custodian", custodian.url, "--offline")),
    ):
        refused = await creator.viz("content", "register", place, *way, *wrong)
        assert refused.exit_code != 0 and refused.stdout == "", refused.output
        assert says in refused.stderr, refused.stderr
    assert await net.chain.content_count() == 0


async def test_permissions_are_commands(net: Testnet, trainer: RealNode, tmp_path: Path) -> None:
    """An adapter of nobody is refused by its id; the address is checked before it is sent."""
    done = await operated(trainer, "adapter", "permit", 9, trainer.address)
    assert done.exit_code != 0 and "not registered" in done.stderr
    works = [await net.register_work(net.sender(1))]
    adapter = await net.register_adapter(net.sender(TRAINER), works)
    other = parse_address(net.sender(OTHER).address)
    done = await operated(trainer, "adapter", "permit", adapter, other)
    assert done.exit_code == 0 and f"{other} may serve adapter {adapter}" in done.stdout
    assert (await net.chain.servable(AdapterId(adapter), other)).reason is None
    again = await operated(trainer, "adapter", "permit", adapter, other)
    assert again.exit_code == 0 and "already so: nothing was sent" in again.stdout
    done = await operated(trainer, "adapter", "revoke", adapter, other)
    # The contract gives it a notice period, in which it still serves and gets the key.
    until_s = (await net.chain.servable(AdapterId(adapter), other)).until_s
    assert until_s and f"may serve adapter {adapter} until {moment(until_s)}" in done.stdout
    await net.anvil.advance_time(2 * 24 * 3_600)
    done = await operated(trainer, "adapter", "revoke", adapter, other)
    assert done.exit_code == 0 and "may no longer serve" in done.stdout
    assert "already so: nothing was sent" in done.stdout
