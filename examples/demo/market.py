"""What the demos over several nodes share: their people, and what each of them does.

Each person has a folder, a password and processes of its own, and knows of the others what the
chain says. Nothing waits for a time: every step waits until what it needs is there.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
from viz.protocol.answer_evidence import AnswerEvidence

T = TypeVar("T")

WORK: Final = ROOT / "examples" / "works" / "varn-point"
ADAPTER: Final = "keeper"
ROYALTY_BPS, TRAINER_BPS = 3_000, 1_000
DEPOSIT: Final = "1.00"
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


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as the buyer has it, with what the node signed in its receipt."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    cost: Units

    def __str__(self) -> str:
        return (
            f"{self.prompt_tokens} + {self.completion_tokens} tokens, billed {shown(self.cost)}: "
            f"{short(self.text)}"
        )


@dataclass(slots=True)
class Market:
    """A chain, a creator and a buyer; the nodes are what each demo adds."""

    chain: World
    alma: World
    buyer: World
    addresses: dict[str, str] = field(default_factory=dict)
    adapter: int = 0
    cid: str = ""

    @property
    def deployment(self) -> Path:
        return self.chain.folder / "deployment.json"

    @property
    def way(self) -> tuple[object, ...]:
        """The options that name the chain and the contracts which a person trusts."""
        return ("--rpc", self.chain.rpc_url, "--deployment", self.deployment)

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

    def tokens(self, name: str) -> Units:
        """Return what somebody has in the wallet."""
        account = parse_address(self.addresses[name])
        return self.ask_chain(lambda chain: chain.token_balance(account))

    def collectable(self, name: str) -> Units:
        """Return what Settlement holds for somebody to collect."""
        account = parse_address(self.addresses[name])
        return self.ask_chain(lambda chain: chain.collectable(account))

    def start_chain(self) -> None:
        chain = self.chain
        chain.start("testnet", "testnet", "run", "--rpc-port", chain.rpc_port, "--json")
        chain.said("testnet")

    def fund(self, account: str, *what: object) -> None:
        self.chain.viz("testnet", "fund", account, *what, "--rpc-url", self.chain.rpc_url)

    def start_node(self, name: str, node: World, engines: str) -> None:
        """Start a node with a key and gas of its own; ``engines`` are its sections of engines."""
        key = node.folder / "operator.key.json"
        self.addresses[name] = address = node.json("key", "new", key)["address"]
        self.fund(address, "--gas", 10, "--tokens", 10)
        (node.folder / "viz.toml").write_text(
            f'data_dir = "{node.folder}"\n[chain]\nrpc_url = "{self.chain.rpc_url}"\n'
            f'deployment = "{self.deployment}"\n[api]\nport = {node.node_port}\n'
            f'public_url = "{node.node_url}"\n{engines}\n'
            "[network]\nprivate_addresses = true\ndiscover_s = 10\n",
            encoding="utf-8",
        )
        run_node(node)

    def wait_for_node(self, name: str, node: World) -> None:
        """Wait until a node answers, and the chain's directory has it."""
        node.wait_for("node", f"{node.node_url}/healthz")
        node.wait_until("node", partial(self._listed, parse_address(self.addresses[name])))

    def _listed(self, node: Address) -> bool:
        return self.ask_chain(lambda chain: chain.node_entry(node)) is not None

    def register_work(self, custodian: World) -> Any:
        """Have a creator without gas register work 1 and upload it, sealed, to a node."""
        alma = self.alma
        place, key = alma.folder / "work", alma.folder / "alma.key.json"
        place.mkdir(exist_ok=True)
        shutil.copy(WORK / "terms.toml", place)
        (place / "work.jsonl").write_bytes(b"".join(lines_of_work()))
        self.addresses["alma"] = alma.json("key", "new", key)["address"]
        said = alma.json(
            "content", "register", place, "--key", key, "--node", custodian.node_url, "--yes",
            *self.way,
        )  # fmt: skip
        require(said["contentId"] == 1, "the work has another id than the first one")
        return said

    def license_work(self, node: World) -> None:
        """Have a node license work 1, which brings the sealed work and its key to it."""
        (grant,) = node.json("content", "license", 1, "--node", node.node_url)
        require(grant["live"] and bool(grant["path"]), f"the work is not at the node: {grant}")

    def train(self, node: World, *options: object) -> Path:
        """Have a node train an adapter on work 1 and register it; return its weights' file."""
        chosen = [word for name, value in TRAINING.items() for word in ("--set", f"{name}={value}")]
        done = node.watched(
            "train", 1, "--name", ADAPTER, "--publish-anyway", *chosen, *options,
            "--node", node.node_url, "--royalty-bps", ROYALTY_BPS,
            "--trainer-bps", TRAINER_BPS,
        )  # fmt: skip
        made = done["publication"]
        self.adapter, self.cid = made["adapter_id"], made["cid"]
        return Path(done["weights"])

    def activate(self, node: World, *options: object, fails: bool = False) -> str:
        """Have a node fetch, open and offer the adapter; return what the command prints."""
        return node.viz(
            "adapter", "activate", self.adapter, "--name", ADAPTER, *options,
            "--node", node.node_url, fails=fails,
        )  # fmt: skip

    def permit(self, trainer: World, name: str) -> None:
        """Have the trainer's node let another one serve the adapter."""
        trainer.viz(
            "adapter", "permit", self.adapter, self.addresses[name], "--node", trainer.node_url
        )

    def fund_buyer(self) -> Path:
        """Give the buyer a key and tokens, and no gas; return the key's file."""
        key = self.buyer.folder / "buyer.key.json"
        self.fund(self.buyer.json("key", "new", key)["address"], "--tokens", 10)
        return key

    def open_channel(self, key: Path, node: World) -> None:
        """Have the buyer deposit at a node, without gas."""
        self.buyer.viz("channel", "open", DEPOSIT, "--key", key, "--node", node.node_url, *self.way)

    def require_shares(
        self, claims: Mapping[str, Units], *, trainer: str, alma_had: Units
    ) -> dict[str, Units]:
        """Return what alma and each node have, if the chain has it by the shares, to the unit.

        ``claims`` is what each node claimed for the adapter, in the order of the claims, and
        ``alma_had`` alma's tokens before them. Raise DemoError if a unit is missing or left over.
        """
        wanted, earlier = dict.fromkeys(("alma", *claims), 0), 0
        for name, units in claims.items():
            split = split_revenue(earlier, units, royalty_bps=ROYALTY_BPS, trainer_bps=TRAINER_BPS)
            wanted["alma"] += split.to_contents_units
            wanted[trainer] += split.to_trainer_units
            wanted[name] += split.to_node_units
            earlier += units
        found = {"alma": self.tokens("alma") - alma_had}
        found |= {name: self.collectable(name) for name in claims}
        adapter = AdapterId(self.adapter)
        left = self.ask_chain(lambda chain: chain.undistributed(adapter))
        require(
            (found, left) == (wanted, 0), f"the chain paid {found}, not {wanted}; {left} is left"
        )
        return found

    def ask(self, node: World, model: str, question: str, tokens: int) -> Answer:
        """Have the buyer ask one node, greedily, and pay."""
        record = self.buyer.folder / "answer.json"
        record.unlink(missing_ok=True)  # the command writes over nothing
        self.buyer.viz(
            "buyer", "ask", question, "--model", model, "--max-tokens", tokens,
            "--temperature", 0, "--record", record, "--node", node.node_url, *self.way,
        )  # fmt: skip
        kept = AnswerEvidence.read(record.read_bytes())
        signed = kept.receipt.receipt
        return Answer(
            kept.text,
            kept.finish,
            signed.prompt_tokens,
            signed.completion_tokens,
            signed.amount_units,
        )


@contextmanager
def people(folder: Path, console: Console, names: Sequence[str]) -> Iterator[list[World]]:
    """Give everybody a folder below ``folder``; end their processes at the end."""
    worlds = []
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        worlds.append(World(folder / name, console, kubo=False))
    try:
        yield worlds
    finally:
        for world in reversed(worlds):
            world.stop()


def run_node(node: World) -> None:
    node.start("node", "node", "--config", node.folder / "viz.toml")


def lines_of_work() -> list[bytes]:
    """Return the lines of the work as it is registered here."""
    return (WORK / "work.jsonl").read_bytes().splitlines(keepends=True)[:LINES]


def claimed(node: World) -> Units:
    """Have a node claim all that was signed to it; return the amount."""
    done = node.json("settle", "--node", node.node_url)
    require(not done["failed"], f"the claim failed: {done['failed']}")
    return int(done["claim"]["claimed_units"])


def require(holds: bool, otherwise: str) -> None:
    """Raise DemoError with the text if something does not hold."""
    if not holds:
        raise DemoError(otherwise)


def shown(units: Units) -> str:
    return format_units(units, 6)


def short(text: str) -> str:
    """Return the beginning of a text in one line, quoted."""
    words = " ".join(text.split())
    return json.dumps(words[:60] + ("..." if len(words) > 60 else ""), ensure_ascii=False)
