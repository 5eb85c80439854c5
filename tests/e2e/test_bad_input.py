"""Bad input to a running market: one clear line, an own exit code, nothing lost, nobody stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from examples.demo.world import ROOT
from tests.e2e.conftest import LICENSED, UNLICENSED, Buyer, Town
from typer.testing import CliRunner

from viz.cli.main import app
from viz.domain.units import ContentId
from viz.local_socket import free_port

pytestmark = pytest.mark.timeout(1_800)

CONFIG, INPUT, PAYMENT, CHAIN, LICENSE, LEDGER, NODE = 3, 4, 5, 6, 7, 9, 12
NOBODY = "http://127.0.0.1:1"


class Case(NamedTuple):
    """What is typed (``{names}`` as in ``words``), and what must be answered."""

    what: str
    arguments: str
    code: int
    name: str
    says: str
    password: str = ""


STRANGER = "--data-dir {town}/stranger --deployment {town}/deployment.json --node {node}"
CASES = [
    Case("a node that is not there", "status --node {nobody}", NODE, "node-unreachable", "viz up"),
    Case("a wrong operator's token", "status --data-dir {town}/stranger --node {node}", PAYMENT,
         "access-token-invalid", "token"),
    Case("a work that is registered", "content register {works}/{licensed} --key {town}/alma.key"
         ".json --node {node}", INPUT, "invalid-request", "registered already"),
    Case("a work that is not there", "content register {works}/none --key {town}/alma.key.json"
         " --node {node}", INPUT, "invalid-work", "there is no terms file"),
    Case("a registration that no node relays", "content register {works}/dunmallow-bakery"
         " --key {town}/alma.key.json --node {nobody}", NODE, "node-unreachable",
         "another --node, or --direct"),
    Case("an unknown work", "content show 99 --node {node}", LICENSE, "license", "check the id"),
    Case("a license to an unknown work", "content license 99 --node {node}", LICENSE, "license",
         "99"),
    Case("a license above the fee", "content license {work} --max-fee 0.01 --node {node}", LICENSE,
         "license", "fee"),
    Case("an unlicensed training", "train {works}/{unlicensed} --node {node}", LICENSE,
         "no-live-grant", "viz content license"),
    Case("a royalty below the license's", "train {works}/{licensed} --dry-run --royalty-bps 700"
         " --node {node}", LICENSE, "license", "--royalty-bps (royaltyBps) to at least 800"),
    Case("a training of nothing", "train {works}/none.txt --node {node}", INPUT,
         "invalid-request", "registration record"),
    Case("an unknown training setting", "train {works}/{licensed} --dry-run --set stepz=2"
         " --node {node}", INPUT, "invalid-request", "is not a training setting"),
    Case("an absurd training setting", "train {works}/{licensed} --dry-run --set rank=0"
         " --node {node}", INPUT, "invalid-request", "rank must be 1 to 64"),
    Case("an unknown training", "adapter register none --node {node}", INPUT, "invalid-request",
         "no training"),
    Case("an unknown adapter to serve", "adapter activate 99 --node {node}", INPUT,
         "unknown-adapter", "99"),
    Case("an unknown adapter to drop", "adapter drop 99 --node {node}", INPUT, "unknown-adapter",
         "99"),
    Case("an unknown adapter to ask", "buyer ask hi --model viz-adapter-99 " + STRANGER, INPUT,
         "unknown-model", "it serves:"),
    Case("a question without a channel", "buyer ask hi --model SmolLM2-135M-Instruct "
         + STRANGER, PAYMENT, "channel-unknown", "open a channel first"),
    Case("a wrong password to the channel's key", "buyer ask hi " + STRANGER, INPUT,
         "invalid-key-file", "the password does not open", "guess"),
    Case("a deposit that is no amount", "channel open 1,5 --key {town}/alma.key.json " + STRANGER,
         INPUT, "invalid-request", "1,5"),
    Case("a deposit that is too small", "channel open 0.001 --key {town}/alma.key.json "
         + STRANGER, INPUT, "invalid-request", "at least"),
    Case("a deposit that is not there", "channel open 0.5 --key {town}/celia.key.json " + STRANGER,
         PAYMENT, "balance-too-low", "Nothing was signed"),
    Case("a close of no channel", "channel close --key {town}/alma.key.json " + STRANGER, PAYMENT,
         "channel-unknown", "no such channel"),
    Case("a buyer's node that is not there", "buyer ask hi --node {nobody}", NODE,
         "node-unreachable", "does not answer"),
    Case("a buyer's chain that is not there", "buyer ask hi --rpc {nobody} " + STRANGER, CHAIN,
         "chain-unreachable", "127.0.0.1:1"),
    Case("a node on other contracts", "buyer ask hi --node {node} --data-dir {town}/stranger"
         " --deployment {town}/other.json", NODE, "node-not-trusted", "the deployment you trust"),
    Case("a proxy's port in use", "buyer proxy --port {port} " + STRANGER, CONFIG, "config",
         "another port"),
]  # fmt: skip


@pytest.fixture(scope="module")
def words(town: Town) -> dict[str, str]:
    """What stands for the names in the table; also lays out the files that the cases need."""
    (town.folder / "stranger").mkdir()
    (town.folder / "stranger" / "operator.token").write_text("wrong\n", encoding="utf-8")
    change_deployment(town, "other.json", settlement="0x" + "77" * 20)
    return {
        "town": str(town.folder),
        "works": str(town.folder / "works"),
        "node": town.world.node_url,
        "nobody": NOBODY,
        "port": str(town.world.node_port),
        "licensed": LICENSED,
        "unlicensed": UNLICENSED,
        "work": str(town.contents[UNLICENSED]),
    }


def change_deployment(town: Town, name: str, **changes: Any) -> Path:
    """Write a deployment file that differs from the town's."""
    content = json.loads((town.folder / "deployment.json").read_text(encoding="utf-8"))
    path = town.folder / name
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_a_bad_command_gets_one_line_and_an_exit_code(
    case: Case, town: Town, words: dict[str, str]
) -> None:
    """Protects people at a real node: no trace, the remedy named, the ledger as it was."""
    before = standing(town)
    arguments = [each.format(**words) for each in case.arguments.split()]
    environment = {
        "VIZ_DATA_DIR": str(town.folder),
        "VIZ_KEY_PASSWORD": case.password or town.world.password,
    }
    done = CliRunner(env=environment).invoke(app, arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    check_refusal(done.exit_code, done.stdout, done.stderr, case)
    assert standing(town) == before


def check_refusal(code: int, out: str, err: str, case: Case) -> None:
    assert code == case.code, (out, err)
    # The daemon's kind of log stands on stdout here, since a test's process is not set up for it.
    said = [line for line in out.splitlines() if "[info " not in line]
    assert not said, out
    assert err.strip().count("\n") == 0, err
    assert err.startswith(f"{case.name}: "), err
    assert case.says in err, err


def standing(town: Town) -> dict[str, Any]:
    """Return what no refusal may change."""
    kept = ("balance", "collectable", "channels", "unclaimed", "receipts", "billed", "adapters")
    found = town.status()
    return {name: found[name] for name in kept} | {"trainings": len(found["trainings"])}


# the daemon


def daemon_cases(town: Town) -> dict[str, tuple[Case, str]]:
    """Return, by name, what must be answered and the lines of viz.toml that ask for it."""
    chain = f'[chain]\nrpc_url = "{town.world.rpc_url}"\n'
    other_id = change_deployment(town, "other-id.json", chain_id=1)
    other_genesis = change_deployment(town, "other-genesis.json", genesis="0x" + "11" * 32)
    port = free_port()
    elsewhere = f"{chain}[api]\nport = {port}\n"
    return {
        "wrong password": (
            Case("", "", INPUT, "invalid-key-file", "the password does not open", "guess"),
            elsewhere,
        ),
        "no password": (Case("", "", CONFIG, "config", "VIZ_KEY_PASSWORD_FILE"), elsewhere),
        "dead chain": (
            Case("", "", CHAIN, "chain-unreachable", "127.0.0.1:1", "right"),
            f'[chain]\nrpc_url = "{NOBODY}"\n[api]\nport = {port}\n',
        ),
        "other chain": (
            Case("", "", CHAIN, "chain-mismatch", "correct rpc_url", "right"),
            f'{chain}deployment = "{other_id}"\n[api]\nport = {port}\n',
        ),
        "other genesis": (
            Case("", "", CHAIN, "chain-mismatch", "the chain was reset", "right"),
            f'{chain}deployment = "{other_genesis}"\n[api]\nport = {port}\n',
        ),
        "port in use": (
            Case("", "", CONFIG, "config", "set api.port", "right"),
            f"{chain}[api]\nport = {town.world.node_port}\n",
        ),
        "ledger in use": (Case("", "", LEDGER, "store", "ledger.sqlite", "right"), elsewhere),
    }


DAEMONS = (
    "wrong password",
    "no password",
    "dead chain",
    "other chain",
    "other genesis",
    "port in use",
    "ledger in use",
)


@pytest.mark.parametrize("what", DAEMONS)
def test_a_daemon_that_cannot_start_says_why_and_leaves_all_as_it_was(
    town: Town, what: str
) -> None:
    """Protects the operator: a wrong start changes nothing, and the running node runs on."""
    case, settings = daemon_cases(town)[what]
    config = town.folder / "bad.toml"
    config.write_text(f'data_dir = "{town.folder}"\n{settings}', encoding="utf-8")
    right = (town.folder / "operator.password").read_text(encoding="utf-8").strip()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VIZ_")}
    if case.password:
        environment["VIZ_KEY_PASSWORD"] = right if case.password == "right" else case.password
    before = standing(town)
    done = subprocess.run(
        [sys.executable, "-m", "viz", "node", "--config", str(config)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=ROOT,
        text=True,
        timeout=240,
        check=False,
    )
    check_refusal(done.returncode, done.stdout, done.stderr, case)
    assert standing(town) == before


# over HTTP

BODIES = {
    "no JSON": b"{",
    "no object": b"[1]",
    "no UTF-8": b'{"model": "\xff"}',
    "no model": b'{"messages": [{"role": "user", "content": "hi"}]}',
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_no_request_is_refused_by_node_and_proxy(
    town: Town, buyer: Buyer, what: str
) -> None:
    """Protects programs: the proxy answers 400 with a stable code. The node, which nobody paid,
    names the price before it judges anything. Nothing is charged."""
    before = standing(town)
    for url, status, code in (
        (town.world.node_url + "/v1", 402, "payment-required"),
        (town.world.proxy_url, 400, "invalid-request"),
    ):
        request = urllib.request.Request(
            f"{url}/chat/completions", BODIES[what], {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        with caught.value as refusal:
            assert refusal.code == status
            assert json.load(refusal)["error"]["code"] == code
    assert standing(town) == before


PROMPTS = [
    ("an empty prompt", "", "prompt-empty"),
    ("an oversized prompt", "sea " * 4_000, "context_length_exceeded"),
]


@pytest.mark.parametrize(("what", "prompt", "code"), PROMPTS, ids=[each[0] for each in PROMPTS])
def test_the_official_client_is_told_what_its_prompt_lacks(
    town: Town, buyer: Buyer, what: str, prompt: str, code: str
) -> None:
    """Protects programs at the proxy: the node's own reason arrives, and nothing is charged."""
    before = standing(town)
    with pytest.raises(openai.APIStatusError) as caught:
        buyer.client.chat.completions.create(
            model=town.base_model, messages=[{"role": "user", "content": prompt}], max_tokens=4
        )
    assert caught.value.code == code and caught.value.status_code < 500
    assert {**standing(town), "unclaimed": before["unclaimed"]} == before


# files that are not what they were


def test_a_work_that_was_edited_is_not_trained_on(town: Town, grant: ContentId) -> None:
    """Protects creators and the manifest: only the file that was registered is trained on."""
    edited = town.folder / "works" / "edited"
    shutil.copytree(town.folder / "works" / LICENSED, edited)
    work = edited / "work.jsonl"
    text = work.read_text(encoding="utf-8")
    work.write_text(text.replace(" the ", " thy ", 1), encoding="utf-8")
    before = standing(town)
    reason = town.world.viz("train", edited, *town.at, fails=True)
    assert reason.startswith("commitment-mismatch: ") and "\n" not in reason
    assert standing(town) == before


@contextmanager
def stopped(town: Town) -> Iterator[None]:
    """Do something while the node is down."""
    assert town.world.end("node") == 0
    yield
    town.start_node()


def flip(file: Path) -> bytes:
    """Flip one bit in the middle of a file; return what it held."""
    before = file.read_bytes()
    middle = len(before) // 2
    file.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
    return before


def test_weights_that_rotted_are_fetched_anew_or_left_out(town: Town, adapter: str) -> None:
    """Protects buyers from other weights than the chain names: one flipped bit is never served."""
    (weights,) = (town.folder / "adapters").glob("*.safetensors")
    with stopped(town):
        flip(weights)
    assert "fetched again" in town.log and adapter in town.sold()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == weights.stem

    with stopped(town):
        flip(weights)
        blocks = [path for path in (town.folder / "blobs/blocks").rglob("*") if path.is_file()]
        largest = max(blocks, key=lambda path: path.stat().st_size)
        whole = flip(largest)
    left_out = next(line for line in town.log.splitlines() if "adapter left out" in line)
    assert f"viz adapter activate {town.adapters[0]}" in left_out
    assert town.sold() == [town.base_model]
    refused = town.world.viz("adapter", "activate", town.adapters[0], *town.at, fails=True)
    assert refused.startswith("blob-corrupt: ") and "\n" not in refused

    largest.write_bytes(whole)
    offer = town.world.json("adapter", "activate", town.adapters[0], *town.at)
    assert offer["model"] == adapter and adapter in town.sold()
