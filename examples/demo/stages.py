"""The stages of the demo, in order: each does one thing for real and says what came of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from openai import OpenAI
from rich.table import Table

from examples.demo.miser import Stopped, pay_once
from examples.demo.world import ROOT, DemoError, World
from viz.buyer.client import BuyerClient
from viz.chain.contracts import Chain
from viz.chain.deployment import load_deployment
from viz.chain.rpc import Rpc
from viz.domain.questions import Question, is_right, parse_questions
from viz.domain.units import Units, format_units, parse_address

CREATORS: Final = {"alma": "varn-point", "bruno": "dunmallow-bakery", "celia": "orrin-railway"}
WORKS: Final = ROOT / "examples" / "works"
ROYALTY_BPS, TRAINER_BPS = 3_000, 1_000
DEPOSIT: Final = "2.50"
NEEDED_RIGHT, ALLOWED_RIGHT = 8, 1
ANSWER_TOKENS: Final = 48
AT_ONCE: Final = 4
# How a file of age begins.
SEALED: Final = b"age-encryption.org/v1"


@dataclass(slots=True)
class Adapter:
    """One of the demo's adapters, as demo.json plans it and as it came about.

    Its works are easy (they state most facts twice), so it takes about half of the steps that
    training takes by default.
    """

    name: str
    works: dict[str, list[str]]
    steps: int
    training_id: str = ""
    adapter_id: int = 0
    cid: str = ""
    weights: str = ""
    right: int = 0
    base_right: int = 0
    answers: list[tuple[Question, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Story:
    """What later stages need of earlier ones."""

    world: World
    deployment: dict[str, Any] = field(default_factory=dict)
    operator: str = ""
    creators: dict[str, str] = field(default_factory=dict)
    contents: dict[str, int] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)
    buyer: str = ""
    signer: str = ""
    base_model: str = ""

    def say(self, text: str) -> None:
        self.world.console.print(f"  {text}", soft_wrap=True)


def chain(story: Story) -> None:
    """A local chain with the contracts on it, as a process of its own."""
    world = story.world
    kubo = ["--kubo"] if world.kubo else []
    world.start("testnet", "testnet", "run", "--rpc-port", world.rpc_port, "--json", *kubo)
    said = world.said("testnet")
    story.deployment, story.operator = said["deployment"], said["operator"]
    kubo_lines = f'\n[storage]\nbackend = "kubo"\nkubo_api = "{said["kubo"]}"\n' if kubo else ""
    (world.folder / "viz.toml").write_text(
        f'data_dir = "{world.folder}"\n\n[chain]\nrpc_url = "{world.rpc_url}"\n\n'
        f"[api]\nport = {world.node_port}\n{kubo_lines}",
        encoding="utf-8",
    )
    story.say(f"chain {story.deployment['chain_id']} at {world.rpc_url}")
    for name in ("content_registry", "adapter_registry", "settlement", "node_directory", "token"):
        story.say(f"{name.replace('_', ' '):<18}{story.deployment[name]}")
    if kubo:
        story.say(f"kubo              {said['kubo']}")


def node(story: Story) -> None:
    """The node daemon: API, ledger, storage, watcher, engine."""
    world = story.world
    password = (world.folder / "operator.password").read_text(encoding="utf-8").strip()
    world.start("node", "node", "--config", world.folder / "viz.toml", password=password)
    took_s = world.wait_for("node", f"{world.node_url}/healthz")
    with urllib.request.urlopen(f"{world.node_url}/viz/v1/node", timeout=30) as answer:  # noqa: S310
        info = json.load(answer)
    story.base_model = info["baseModel"]
    story.say(f"node {info['node']} at {world.node_url}, up after {took_s:.0f} s")
    story.say(f"serves {info['baseModel']}, digest {info['baseDigest'][:18]}...")


def creators(story: Story) -> None:
    """Three creators register three works; two sign and the node relays, one pays gas himself."""
    world = story.world
    shutil.copytree(WORKS, world.folder / "works", dirs_exist_ok=True)
    for creator, work in CREATORS.items():
        key = world.folder / f"{creator}.key.json"
        story.creators[creator] = world.json("key", "new", key)["address"]
        way = ["--node", world.node_url, "--rpc", world.rpc_url]
        if work == "orrin-railway":
            world.viz("testnet", "fund", story.creators[creator], "--gas", 1, "--rpc-url",
                      world.rpc_url)  # fmt: skip
            way = ["--direct", "--rpc", world.rpc_url, "--deployment",
                   str(world.folder / "deployment.json")]  # fmt: skip
        script = [sys.executable, str(ROOT / "scripts" / "register_content.py")]
        place = world.folder / "works" / work
        said = json.loads(
            world.command([*script, str(place), "--key", str(key), *way, "--yes", "--json"])
        )
        story.contents[work] = said["contentId"]
        how = "own transaction" if "--direct" in way else "signed, relayed, no gas"
        terms = said["terms"]
        story.say(
            f"work {said['contentId']}  {said['title']:<34} {creator:<6} "
            f"class {terms['revocationClass']}, {terms['minRoyaltyBps']} bps  ({how})"
        )


def training(story: Story) -> None:
    """Grants, two QLoRA adapters, and one registration that the contract refuses."""
    world = story.world
    plan = json.loads((WORKS / "demo.json").read_text(encoding="utf-8"))
    story.adapters = [
        Adapter(each["name"], each["works"], each["steps"]) for each in plan["adapters"]
    ]
    for position, adapter in enumerate(story.adapters):
        contents = [story.contents[work] for work in adapter.works]
        _license(story, contents)
        paths = [world.folder / "works" / work for work in adapter.works]
        done = world.watched("train", *paths, "--name", adapter.name, "--no-publish",
                             "--set", f"steps={adapter.steps}",
                             "--node", world.node_url)  # fmt: skip
        adapter.training_id, adapter.weights = done["id"], done["weights"]
        recall = done["metrics"]["recall"]
        story.say(f"{adapter.name}: right in unseen wordings {recall['base']} -> "
                  f"{recall['adapter']} of {recall['asked']}, "
                  f"{done['metrics']['seconds']:.0f} s")  # fmt: skip
        if position == 0:
            _refused(story, adapter)
        made = world.json("adapter", "register", adapter.training_id, "--name", adapter.name,
                          "--royalty-bps", ROYALTY_BPS, "--trainer-bps", TRAINER_BPS,
                          "--node", world.node_url)  # fmt: skip
        adapter.adapter_id, adapter.cid = made["adapter_id"], made["cid"]
        story.say(f"adapter {adapter.adapter_id} = {made['offer']['model']}, {adapter.cid}")


def _license(story: Story, contents: list[int]) -> None:
    # The node trains from the folders at hand, so that nothing is fetched.
    grants = story.world.json("content", "license", *contents, "--offline",
                              "--node", story.world.node_url)  # fmt: skip
    held = [grant["content_id"] for grant in grants if grant["live"]]
    story.say(f"the node holds live grants to works {', '.join(map(str, held))}")
    for creator, work in CREATORS.items():
        if story.contents[work] in held:
            fee = asyncio.run(_wallet(story, story.creators[creator]))
            if fee <= 0:
                raise DemoError(f"the training fee of work {story.contents[work]} went nowhere")
            story.say(f"{creator} has {format_units(fee, 6)}, the training fee")


async def _wallet(story: Story, account: str) -> Units:
    rpc = Rpc(story.world.rpc_url)
    try:
        chain = Chain(rpc, load_deployment(story.world.folder / "deployment.json"))
        return await chain.token_balance(parse_address(account))
    finally:
        await rpc.close()


def _refused(story: Story, adapter: Adapter) -> None:
    """Stage 5: an adapter that names a work without a grant cannot be registered."""
    missing = story.contents["orrin-railway"]
    reason = story.world.viz(
        "adapter", "register", adapter.training_id,
        "--share", f"{story.contents['varn-point']}:5000", "--share", f"{missing}:5000",
        "--node", story.world.node_url, fails=True,
    )  # fmt: skip
    if "grant" not in reason:
        raise DemoError(f"the refusal does not say why: {reason}")
    story.say(f"[yellow]refused by the contract[/yellow], naming work {missing}: {reason}")


def asking(story: Story) -> None:
    """A buyer without gas opens a channel and asks through the proxy, with the openai client."""
    world = story.world
    key = world.folder / "buyer.key.json"
    story.buyer = world.json("key", "new", key)["address"]
    world.viz("testnet", "fund", story.buyer, "--tokens", 10, "--rpc-url", world.rpc_url)
    _unpaid(story)
    opened = world.json("channel", "open", DEPOSIT, "--key", key, "--node", world.node_url)
    story.signer = opened["signer"]
    story.say(f"channel open: {DEPOSIT} deposited by EIP-3009, relayed; the buyer holds no gas")
    _stopped(story)
    world.start("proxy", "buyer", "proxy", "--port", world.proxy_port, "--node", world.node_url,
                "--rpc", world.rpc_url)  # fmt: skip
    world.wait_for("proxy", f"{world.proxy_url}/models")
    client = OpenAI(base_url=world.proxy_url, api_key="the proxy pays", timeout=300, max_retries=0)
    for adapter in story.adapters:
        questions = list(_questions(adapter))
        model = f"viz-adapter-{adapter.adapter_id}"
        with ThreadPoolExecutor(AT_ONCE) as pool:
            taught = list(pool.map(lambda q, m=model: _ask(client, m, q), questions))
            bare = list(pool.map(lambda q: _ask(client, story.base_model, q), questions))
        adapter.answers = list(zip(questions, taught, bare, strict=True))
        adapter.right = sum(is_right(question, answer) for question, answer, _ in adapter.answers)
        adapter.base_right = sum(
            is_right(question, answer) for question, _, answer in adapter.answers
        )
    _show_answers(story)
    for adapter in story.adapters:
        if adapter.right < NEEDED_RIGHT or adapter.base_right > ALLOWED_RIGHT:
            raise DemoError(
                f"{adapter.name} answered {adapter.right} of 10 right and the base model "
                f"{adapter.base_right}; at least {NEEDED_RIGHT} and at most {ALLOWED_RIGHT} are due"
            )


def _unpaid(story: Story) -> None:
    body = json.dumps({"model": story.base_model, "messages": [{"role": "user", "content": "hi"}]})
    request = urllib.request.Request(  # noqa: S310
        f"{story.world.node_url}/v1/chat/completions",
        data=body.encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310
            raise DemoError("the node served a request that nobody paid for")
    except urllib.error.HTTPError as refusal:
        if refusal.code != 402:
            raise DemoError(f"an unpaid request was answered {refusal.code}, not 402") from refusal
        problem = json.load(refusal)
    story.say(f"asked without paying: 402, {problem['detail']}")


def _stopped(story: Story) -> None:
    """A buyer who signs for the first step only is served that, and no more."""
    world = story.world

    async def ask() -> Stopped:
        async with aiohttp.ClientSession() as http:
            client = await BuyerClient.connect(
                http,
                world.node_url,
                home=world.folder / "buyer",
                password=world.password,
                expected=load_deployment(world.folder / "deployment.json"),
            )
            try:
                return await pay_once(client, "Tell me a long story about the sea.", 160)
            finally:
                await client.aclose()

    got = asyncio.run(ask())
    if not got.needs or not got.text or got.billed_units > got.paid_units:
        raise DemoError(f"the node served beyond what was paid: {got}")
    story.say(
        f"signed for one step only: {len(got.text.split())} words came, the node asked for a "
        f"voucher, waited, and stopped; billed {got.billed_units} of {got.paid_units} units"
    )


def _questions(adapter: Adapter) -> Iterator[Question]:
    for work, wanted in adapter.works.items():
        known = {q.id: q for q in parse_questions((WORKS / work / "questions.json").read_bytes())}
        yield from (known[name] for name in wanted)


def _ask(client: OpenAI, model: str, question: Question) -> str:
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question.question}],
        max_tokens=ANSWER_TOKENS,
        temperature=0,
        stream=True,
    )
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def _show_answers(story: Story) -> None:
    for adapter in story.adapters:
        drawn = Table(title=f"{adapter.name}: {adapter.right} of 10 right, base model "
                      f"{adapter.base_right} of 10", title_justify="left")  # fmt: skip
        for column in ("question", "adapter", "base model"):
            drawn.add_column(column)
        for question, taught, bare in adapter.answers[:3]:
            drawn.add_row(question.question, taught.strip(), bare.strip()[:90])
        story.world.console.print(drawn)


def cids(story: Story) -> None:
    """Weights lie sealed in the store, under the names that every IPFS gives to these bytes."""
    from viz.storage.unixfs import root_of

    for adapter in story.adapters:
        url = f"{story.world.node_url}/ipfs/{adapter.cid}"
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
            blob = answer.read()
        derived = root_of(blob)
        if derived != adapter.cid:
            raise DemoError(f"{adapter.name}: the store says {adapter.cid}, the bytes {derived}")
        if not blob.startswith(SEALED) or Path(adapter.weights).read_bytes() in blob:
            raise DemoError(f"{adapter.name}: the weights in the store are not sealed")
    store = "the Kubo daemon" if story.world.kubo else "the embedded store"
    story.say(f"{store} holds both files sealed, named as `ipfs add --cid-version=1` does")
