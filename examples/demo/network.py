"""The market over three nodes: what `./scripts/demo --network` runs, told in about ten lines.

Each person has a folder, a password and processes of its own, and knows of the others what the
chain says. Nothing waits for a time: every step waits until what it needs is there.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from examples.demo.world import ROOT, DemoError, World
from viz.chain.contracts import Chain
from viz.chain.deployment import load_deployment
from viz.chain.rpc import Rpc
from viz.domain.shares import split_revenue
from viz.domain.units import AdapterId, Address, Units, format_units, parse_address

T = TypeVar("T")

WORK: Final = ROOT / "examples" / "works" / "varn-point"
ADAPTER: Final = "keeper"
ROYALTY_BPS, TRAINER_BPS = 3_000, 1_000
# What an adapter can know is shown by the demo of one node. Here two steps on the work's first
# lines make one, in a minute or so.
LINES: Final = 6
TRAINING: Final = {
    "steps": 2,
    "warmup_steps": 0,
    "rows_per_step": 2,
    "evaluate_every": 2,
    "rank": 4,
    "max_row_tokens": 256,
    "replay_share": 0,
}
# C asks so much more than B that no latency which the buyer measures makes up for it.
DEARER: Final = ("--prompt-price", "16.00", "--completion-price", "48.00")
QUESTION: Final = "Tell me a long story about the keeper of the light, in many sentences."
ANSWER_TOKENS, KILLED_AFTER = 256, 24
ENGINE: Final = "max_streams = 2\ncontext_tokens = 1024\n"


@dataclass(slots=True)
class NetworkStory:
    """Everybody of the story, and what came about so far."""

    chain: World
    alma: World
    a: World
    b: World
    c: World
    buyer: World
    addresses: dict[str, str] = field(default_factory=dict)
    adapter: int = 0
    cid: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def everybody(self) -> tuple[World, ...]:
        return (self.chain, self.alma, self.a, self.b, self.c, self.buyer)

    @property
    def deployment(self) -> Path:
        return self.chain.folder / "deployment.json"

    def say(self, text: str) -> None:
        self.chain.console.print(text, soft_wrap=True, markup=False)

    def ask_chain(self, question: Callable[[Chain], Awaitable[T]]) -> T:
        """Return the chain's answer: nothing of it is a node's word."""

        async def ask() -> T:
            rpc = Rpc(self.chain.rpc_url)
            try:
                return await question(Chain(rpc, load_deployment(self.deployment)))
            finally:
                await rpc.close()

        return asyncio.run(ask())


@contextmanager
def people(folder: Path, console: Console) -> Iterator[NetworkStory]:
    """Give everybody a folder below ``folder``; end their processes at the end."""

    def home(name: str) -> World:
        (folder / name).mkdir(parents=True, exist_ok=True)
        return World(folder / name, console, kubo=False)

    chain, alma, a, b, c, buyer = map(home, ("chain", "alma", "a", "b", "c", "buyer"))
    story = NetworkStory(chain, alma, a, b, c, buyer)
    try:
        yield story
    finally:
        for world in reversed(story.everybody):
            world.stop()


def tell(folder: Path, console: Console) -> None:
    """Tell the whole story; raise DemoError where something does not hold."""
    with people(folder, console) as story:
        for stage in (_nodes, _work, _training, _permission, _answer, _money):
            stage(story)


def _units(units: Units) -> str:
    return format_units(units, 6)


def _nodes(story: NetworkStory) -> None:
    """A chain, and three nodes that write themselves into its directory."""
    story.chain.start("testnet", "testnet", "run", "--rpc-port", story.chain.rpc_port, "--json")
    story.chain.said("testnet")
    for name, node, engine in (
        ("A", story.a, 'backend = "none"\n'),
        ("B", story.b, ENGINE),
        ("C", story.c, ENGINE),
    ):
        key = node.folder / "operator.key.json"
        story.addresses[name] = address = node.json("key", "new", key)["address"]
        _fund(story, address, "--gas", 10, "--tokens", 10)
        (node.folder / "viz.toml").write_text(
            f'data_dir = "{node.folder}"\n[chain]\nrpc_url = "{story.chain.rpc_url}"\n'
            f'deployment = "{story.deployment}"\n[api]\nport = {node.node_port}\n'
            f'public_url = "{node.node_url}"\n[engine]\n{engine}'
            "[network]\nprivate_addresses = true\ndiscover_s = 10\n",
            encoding="utf-8",
        )
        _run(node)
    for name, node in (("A", story.a), ("B", story.b), ("C", story.c)):
        node.wait_for("node", f"{node.node_url}/healthz")
        node.wait_until("node", partial(_listed, story, parse_address(story.addresses[name])))
    story.say(
        "1. three nodes, known to each other by the chain's directory alone: A holds works (no "
        "model), B trains and serves, C serves"
    )


def _listed(story: NetworkStory, node: Address) -> bool:
    return story.ask_chain(lambda chain: chain.node_entry(node)) is not None


def _run(node: World) -> None:
    node.start("node", "node", "--config", node.folder / "viz.toml")


def _fund(story: NetworkStory, account: str, *what: object) -> None:
    story.chain.viz("testnet", "fund", account, *what, "--rpc-url", story.chain.rpc_url)


def _work(story: NetworkStory) -> None:
    """A creator without gas uploads once, at A."""
    alma = story.alma
    place, key = alma.folder / "work", alma.folder / "alma.key.json"
    place.mkdir(exist_ok=True)
    shutil.copy(WORK / "terms.toml", place)
    (place / "work.jsonl").write_bytes(b"".join(_lines()))
    story.addresses["alma"] = alma.json("key", "new", key)["address"]
    said = alma.json(
        "content", "register", place, "--key", key, "--node", story.a.node_url, "--yes",
        "--rpc", story.chain.rpc_url, "--deployment", story.deployment,
    )  # fmt: skip
    _require(said["contentId"] == 1, "the work has another id than the first one")
    _require(not _plain_in(story.a), "the custodian's disk holds words of the work")
    story.say(
        f"2. alma registers work 1 and uploads it to A, sealed, {said['sealed']['sizeBytes']} "
        "bytes; no file of A's holds a word of it"
    )


def _lines() -> list[bytes]:
    return (WORK / "work.jsonl").read_bytes().splitlines(keepends=True)[:LINES]


def _plain_in(node: World) -> list[Path]:
    """Return the files of a node that hold a line of the work."""
    files = (path for path in node.folder.rglob("*") if path.is_file())
    return [path for path in files if any(line in path.read_bytes() for line in _lines())]


def _training(story: NetworkStory) -> None:
    """B needs the work's id alone: license, key, blob, training."""
    node, way = story.b, ("--node", story.b.node_url)
    (grant,) = node.json("content", "license", 1, *way)
    _require(grant["live"] and bool(grant["path"]), f"the work is not at B: {grant}")
    story.say(
        f"3. B licenses work 1, pays alma {_units(_tokens(story, 'alma'))}, gets its key from A, "
        "fetches it by content id, opens it and checks it against the chain"
    )
    chosen = [word for name, value in TRAINING.items() for word in ("--set", f"{name}={value}")]
    done = node.watched(
        "train", 1, "--name", ADAPTER, "--publish-anyway", *chosen, *way,
        "--royalty-bps", ROYALTY_BPS, "--trainer-bps", TRAINER_BPS,
    )  # fmt: skip
    made = done["publication"]
    story.adapter, story.cid = made["adapter_id"], made["cid"]
    story.say(
        f"4. B trains {TRAINING['steps']} steps and registers adapter {story.adapter}; its "
        f"weights travel sealed as {story.cid[:20]}..."
    )


def _tokens(story: NetworkStory, name: str) -> Units:
    account = parse_address(story.addresses[name])
    return story.ask_chain(lambda chain: chain.token_balance(account))


def _permission(story: NetworkStory) -> None:
    """C serves B's adapter when B lets it, and not before."""
    c, b = story.c, story.b
    activate = ("adapter", "activate", story.adapter, "--name", ADAPTER, *DEARER)
    reason = c.viz(*activate, "--node", c.node_url, fails=True)
    _require("adapter-not-servable" in reason, f"C was refused for another reason: {reason}")
    b.viz("adapter", "permit", story.adapter, story.addresses["C"], "--node", b.node_url)
    c.viz(*activate, "--node", c.node_url)
    story.say(
        f"5. C is refused adapter {story.adapter} until B permits it on chain; then it finds B in "
        "the directory, gets the key, fetches, opens and serves"
    )


def _answer(story: NetworkStory) -> None:
    """A buyer without a URL asks for a name; the node that answers is killed meanwhile."""
    buyer, key = story.buyer, story.buyer.folder / "buyer.key.json"
    _fund(story, buyer.json("key", "new", key)["address"], "--tokens", 10)
    way = ("--rpc", story.chain.rpc_url, "--deployment", story.deployment)
    (model,) = buyer.json("buyer", "models", ADAPTER, *way)["models"]
    served = [offer["node"] for offer in model["offers"]]
    wanted = [story.addresses["B"], story.addresses["C"]]
    _require(served == wanted, f"{ADAPTER} is served by {served}, not by B and C")
    buyer.start(
        "proxy", "buyer", "proxy", "--port", buyer.proxy_port, "--key", key,
        "--max-deposit", "1.00", *way,
    )  # fmt: skip
    buyer.wait_for("proxy", f"{buyer.proxy_url}/models")
    before, after, story.parts = _streamed(story)
    first, second = _parts(story)
    _require(bool(first.get("fault")) and bool(after.strip()), "C added nothing to the answer")
    story.say(
        f"6. a buyer without a URL or gas asks for {ADAPTER!r}: B and C sell it, B for less, so B "
        f"answers: {_short(before)}"
    )
    story.say(
        f"7. B is killed (SIGKILL) after {first['completionTokens']} tokens; the same stream goes "
        f"on at C, {second['completionTokens']} tokens: {_short(after)}"
    )
    story.say(
        f"8. C is paid for {second['promptTokens']} tokens of prompt, in which the "
        f"{first['completionTokens']} of B are, and for its own {second['completionTokens']}: no "
        "token of the answer is paid twice"
    )


def _streamed(story: NetworkStory) -> tuple[str, str, list[dict[str, Any]]]:
    """Ask, kill B once text has come, and return the text before and after, and the parts."""
    body = {
        "model": ADAPTER,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    request = urllib.request.Request(  # noqa: S310
        f"{story.buyer.proxy_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    texts, pieces, killed, parts = ["", ""], 0, False, []
    with urllib.request.urlopen(request, timeout=300) as stream:  # noqa: S310
        for line in stream:
            said = line.decode().strip()
            if said.startswith(": part "):
                parts.append(json.loads(said.removeprefix(": part ")))
            if not said.startswith("data: {"):
                continue
            chunk = json.loads(said.removeprefix("data: "))
            _require("error" not in chunk, f"the answer broke off: {chunk}")
            text = "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            texts[killed] += text
            pieces += bool(text)
            if pieces >= KILLED_AFTER and not killed:
                story.b.end("node", by=signal.SIGKILL)
                killed = True
    _require(killed, f"the answer ended after {pieces} pieces, before B was killed")
    return texts[0], texts[1], parts


def _parts(story: NetworkStory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two parts of the answer; raise DemoError if they are not B's and C's."""
    nodes = [part["node"] for part in story.parts]
    _require(
        nodes == [story.addresses["B"], story.addresses["C"]],
        f"the answer came from {nodes}, not from B and then C",
    )
    first, second = story.parts
    carried = second["promptTokens"] - first["promptTokens"]
    _require(carried > 0, "what B wrote is not in C's prompt")
    _require(
        first["completionTokens"] + second["completionTokens"] <= ANSWER_TOKENS,
        "more tokens were paid than were asked for",
    )
    return first, second


def _short(text: str) -> str:
    """Return the beginning of a text in one line, quoted."""
    words = " ".join(text.split())
    return json.dumps(words[:60] + ("..." if len(words) > 60 else ""), ensure_ascii=False)


def _money(story: NetworkStory) -> None:
    """C claims, B comes back and claims, and the chain has what the shares say, to the unit."""
    fee = _tokens(story, "alma")
    at_c = _claimed(story.c)
    _run(story.b)
    story.b.wait_for("node", f"{story.b.node_url}/healthz")
    at_b = _claimed(story.b)
    second = story.parts[1]
    # A voucher is signed a step ahead: what an answer that ended early did not use is credit there.
    _require(at_c >= int(second["cost"]), f"C claimed {at_c}, and billed {second['cost']}")
    _require(at_b > 0, "B claimed nothing of what was signed to it")
    split = partial(split_revenue, royalty_bps=ROYALTY_BPS, trainer_bps=TRAINER_BPS)
    of_c, of_b = split(0, at_c), split(at_c, at_b)
    wanted = {
        "alma": of_c.to_contents_units + of_b.to_contents_units,
        "B": of_c.to_trainer_units + of_b.to_trainer_units + of_b.to_node_units,
        "C": of_c.to_node_units,
    }
    b, c = (parse_address(story.addresses[name]) for name in "BC")
    found = {
        "alma": _tokens(story, "alma") - fee,
        "B": story.ask_chain(lambda chain: chain.collectable(b)),
        "C": story.ask_chain(lambda chain: chain.collectable(c)),
    }
    adapter = AdapterId(story.adapter)
    left = story.ask_chain(lambda chain: chain.undistributed(adapter))
    _require((found, left) == (wanted, 0), f"the chain paid {found}, not {wanted}; {left} is left")
    story.say(
        f"9. C billed {_units(int(second['cost']))} and claims {_units(at_c)}, as was signed; "
        f"B comes back and claims the {_units(at_b)} that were signed before it was killed"
    )
    story.say(
        f"10. of {_units(at_b + at_c)} alma has {_units(found['alma'])}, B as trainer and server "
        f"{_units(found['B'])}, C {_units(found['C'])}: as the shares say, to the unit"
    )


def _claimed(node: World) -> Units:
    done = node.json("settle", "--node", node.node_url)
    _require(not done["failed"], f"the claim failed: {done['failed']}")
    return int(done["claim"]["claimed_units"])


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)
