"""A node that relays registrations and lies: about each field in turn, and about what it did.

The creator's own command runs against it. What it signs must be the creator's file, for the trusted
deployment, at the deployment's scale, for an hour of the own clock; else nothing is signed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.http_server import serving
from tests.integration.chain.testnet import Testnet
from typer.testing import CliRunner, Result

from viz.chain.contracts import Chain
from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.cli.main import app
from viz.creator import until_seen
from viz.creator.signing import VALID_S
from viz.domain.eip712 import content_registry_domain, is_signed_by
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, ContentId
from viz.errors import TransactionFailed
from viz.protocol.registration import CONTENTS_PATH, REGISTRATION_CONTEXT_PATH, SignedRegistration
from viz.services.licensing.creator_relay import registration_call
from viz.services.work_records import load_record

PASSWORD = "correct horse"
TERMS = """title = "Tides"
kind = "text"
file = "story.txt"
[terms]
training_fee = "250.00"
min_royalty_bps = 1000
duration_s = 0
notice_s = 86400
revocation_class = 1
uses = ["train", "embody", "serve"]
needs_approval = false
[license]
text = "all rights reserved"
"""
INPUT, CONFIG, CHAIN, UNTRUE = 4, 3, 6, 12


@dataclass
class Liar:
    """A node's relay that answers what it likes."""

    lies: dict[str, Any] = field(default_factory=dict)
    answer: Any = None
    status: int = 201
    url: str = ""
    taken: list[SignedRegistration] = field(default_factory=list)

    async def context(self, request: web.Request) -> web.Response:
        truth = {
            "chainId": DEPLOYMENT.chain_id,
            "contentRegistry": DEPLOYMENT.content_registry,
            "creator": request.match_info["creator"],
            "nonce": "0",
            "chainTime": int(time.time()),
            "tokenDecimals": DEPLOYMENT.token_decimals,
        }
        return web.json_response(truth | self.lies)

    async def register(self, request: web.Request) -> web.Response:
        self.taken.append(SignedRegistration.from_json(await request.json()))
        answer = self.answer or {"contentId": 1, "transaction": "0x" + "11" * 32}
        return web.json_response(answer, status=self.status)


@asynccontextmanager
async def lying(liar: Liar) -> AsyncIterator[Liar]:
    routes = [
        web.get(REGISTRATION_CONTEXT_PATH, liar.context),
        web.post(CONTENTS_PATH, liar.register),
    ]
    async with serving(routes) as liar.url:
        yield liar


@dataclass(frozen=True)
class Desk:
    """A creator's folder: a work, a key, and the deployment that is trusted."""

    folder: Path
    creator: Address

    @property
    def work(self) -> Path:
        return self.folder / "work" / "story.txt"

    def terms(self, text: str) -> None:
        (self.folder / "work" / "terms.toml").write_text(text, encoding="utf-8")

    async def register(self, url: str, *more: str, yes: bool = True) -> Result:
        arguments = ["content", "register", str(self.folder / "work"), "--key",
                     str(self.folder / "key.json"), "--data-dir", str(self.folder), "--node", url,
                     "--offline", *(["--yes"] if yes else []), *more]  # fmt: skip
        runner = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD, "VIZ_RPC_URL": None})
        return await asyncio.to_thread(runner.invoke, app, arguments)


def new_desk(folder: Path, deployment: Deployment) -> Desk:
    (folder / "work").mkdir(parents=True)
    save_deployment(folder / "deployment.json", deployment)
    account = create_key_file(folder / "key.json", PASSWORD, scrypt_n=2)
    made = Desk(folder, Address(account.address))
    made.work.write_text("The tide comes in twice a day. " * 200, encoding="utf-8")
    made.terms(TERMS)
    return made


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return new_desk(tmp_path / "home", replace(DEPLOYMENT, token_symbol="vUSD"))


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ({"tokenDecimals": 0}, "token decimals"),
        ({"tokenDecimals": 18}, "token decimals"),
        ({"chainId": 1}, "chain id"),
        ({"contentRegistry": "0x" + "22" * 20}, "ContentRegistry"),
        ({"creator": "0x" + "33" * 20}, "0x3333"),
        ({"chainTime": 4_000_000_000}, "the clock"),
        ({"chainTime": 0}, "the clock"),
        ({"chainTime": int(time.time()) + 86_400}, "the clock"),
    ],
)
async def test_a_lie_about_the_chain_gets_no_signature(
    desk: Desk, lies: dict[str, Any], said: str
) -> None:
    """Protects the creator's price and rights: decimals 0 made a fee of 250.00 one of 0.00025."""
    async with lying(Liar(lies)) as node:
        done = await desk.register(node.url)
    assert done.exit_code == UNTRUE and said in done.stderr, done.output
    assert not node.taken and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "lies",
    [
        {"nonce": "-1"}, {"nonce": None}, {"chainTime": "soon"}, {"tokenDecimals": [6]},
        {"chainId": 2**80}, {"creator": "0x12"}, {"nonce": str(2**96)},
    ],
)  # fmt: skip
async def test_nonsense_gets_no_signature(desk: Desk, lies: dict[str, Any]) -> None:
    """Protects the command: an answer of another shape is one line, not a trace."""
    async with lying(Liar(lies)) as node:
        done = await desk.register(node.url)
    assert isinstance(done.exception, SystemExit) and done.exit_code == UNTRUE, done.output
    assert not node.taken and done.stderr.count("\n") == 1


async def test_what_is_signed_is_the_creators_and_is_told_before(desk: Desk) -> None:
    """Protects consent: words and amounts first, then the signature; and whose word the end is."""
    async with lying(Liar()) as node:
        refused = await desk.register(node.url, yes=False)
        assert refused.exit_code == INPUT and "--yes" in refused.stderr and not node.taken
        before = int(time.time())
        done = await desk.register(node.url)
    assert done.exit_code == 0, done.output
    (signed,) = node.taken
    work, record = signed.register, load_record(desk.work)
    assert record is not None and not record.on_chain
    assert work.terms.training_fee_units == 250_000_000
    assert before + VALID_S <= work.deadline_s <= time.time() + VALID_S
    domain = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
    assert is_signed_by(domain.digest(work), signed.signature, desk.creator)
    for words in (
        "250.000000 vUSD, once for each grant",
        "at least 10 % of an adapter's gross revenue",
        "a grant lasts    for ever",
        "1 day",
        "train, embody, serve",
        f"chain            {DEPLOYMENT.chain_id}",
        DEPLOYMENT.content_registry,
        " UTC; you pay no gas",
    ):
        assert words in done.stdout and words in refused.stdout
    assert "registered  " not in done.stdout
    told = "sent        the registration of work 1: Tides: only the node says that it is done."
    assert told in done.stdout


async def test_no_trusted_deployment_no_signature(desk: Desk) -> None:
    """Protects newcomers: without the file the node's own word is not taken instead."""
    (desk.folder / "deployment.json").unlink()
    async with lying(Liar()) as node:
        done = await desk.register(node.url)
    assert done.exit_code == CONFIG and "viz trust" in done.stderr and not node.taken


async def test_two_good_signatures_for_one_work_are_never_out(desk: Desk) -> None:
    """Protects the creator's new terms: the old ones, said to have failed, could follow them."""
    async with lying(Liar(status=503, answer={"code": "relay-busy", "detail": "later"})) as node:
        assert (await desk.register(node.url)).exit_code != 0
        desk.terms(TERMS.replace("250.00", "500.00"))
        node.lies = {"nonce": "1"}
        done = await desk.register(node.url)
        assert done.exit_code == INPUT and "nonce 1 is asked for" in done.stderr
        assert len(node.taken) == 1
        node.lies = {}
        await desk.register(node.url)
    first, second = (each.register for each in node.taken)
    assert first.nonce == second.nonce, "the chain takes one of them at most"


async def test_registered_is_what_the_chain_says(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects whoever is told "work 1" by a node that kept the signature to itself."""
    monkeypatch.setattr(until_seen, "EVERY_S", 0.01)
    desk = new_desk(tmp_path / "home", net.deployment)
    truth = {
        "chainId": net.deployment.chain_id,
        "contentRegistry": net.deployment.content_registry,
        "nonce": "7",
    }
    async with lying(Liar(truth)) as node:
        await desk.register(node.url)
        assert load_record(desk.work) is not None
        done = await desk.register(node.url, "--rpc", net.anvil.url)
        assert done.exit_code == UNTRUE and "not registered there" in done.stderr, done.output
        record = load_record(desk.work)
        assert record is not None and record.content_id is None and not record.on_chain


async def test_decimals_of_the_deployment_are_read_from_the_own_chain(
    net: Testnet, tmp_path: Path
) -> None:
    """Protects whoever trusted a false file: with --rpc the token itself is asked."""
    desk = new_desk(tmp_path / "home", replace(net.deployment, token_decimals=4))
    async with lying(Liar({"tokenDecimals": 4})) as node:
        done = await desk.register(node.url, "--rpc", net.anvil.url)
    assert done.exit_code == CHAIN and "6 decimals" in done.stderr and not node.taken


async def test_an_own_transaction_voids_the_signature_that_a_node_kept(
    net: Testnet, tmp_path: Path
) -> None:
    """A node says "later" and keeps the signature; the creator raises the fee and registers by an
    own transaction. The kept signature must be void: else the work is licensed at the old fee."""
    desk = new_desk(tmp_path / "home", net.deployment)
    desk.terms(TERMS.replace("250.00", "2.00"))
    truth = {
        "chainId": net.deployment.chain_id,
        "contentRegistry": net.deployment.content_registry,
        "nonce": "0",
    }
    refusal = {"code": "relay-busy", "detail": "later"}
    async with lying(Liar(truth, status=503, answer=refusal)) as node:
        assert (await desk.register(node.url, "--rpc", net.anvil.url)).exit_code != 0
        desk.terms(TERMS)
        await net.rpc.request("anvil_setBalance", [desk.creator, hex(10**18)])
        done = await desk.register(node.url, "--rpc", net.anvil.url, "--direct")
        assert done.exit_code == 0, done.stderr
        (kept,) = node.taken
    late = registration_call(kept.register, kept.signature)
    with pytest.raises(TransactionFailed):
        await net.sender(1).submit(late)
    chain = Chain(net.rpc, net.deployment)
    assert await chain.content(ContentId(2)) is None
    first = await chain.content(ContentId(1))
    assert first is not None
    assert first.terms_hash != kept.register.terms.terms_hash(kept.register.license_hash)
