"""The market over three nodes: what `./scripts/demo --network` runs, told in about ten lines."""

from __future__ import annotations

import json
import signal
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from examples.demo.market import (
    ADAPTER,
    TRAINING,
    Market,
    claimed,
    lines_of_work,
    people,
    require,
    run_node,
    short,
    shown,
)
from examples.demo.world import World

# C asks so much more than B that no latency which the buyer measures makes up for it.
DEARER: Final = ("--prompt-price", "16.00", "--completion-price", "48.00")
QUESTION: Final = "Tell me a long story about the keeper of the light, in many sentences."
ANSWER_TOKENS, KILLED_AFTER = 256, 24
ENGINE: Final = "[engine]\nmax_streams = 2\ncontext_tokens = 1024\n"


@dataclass(slots=True, kw_only=True)
class NetworkStory(Market):
    """Everybody of the story, and what came about so far."""

    a: World
    b: World
    c: World
    parts: list[dict[str, Any]] = field(default_factory=list)


def tell(folder: Path, console: Console) -> None:
    """Tell the whole story; raise DemoError where something does not hold."""
    names = ("chain", "alma", "a", "b", "c", "buyer")
    with people(folder, console, names) as (chain, alma, a, b, c, buyer):
        story = NetworkStory(chain=chain, alma=alma, a=a, b=b, c=c, buyer=buyer)
        for stage in (_nodes, _work, _training, _permission, _answer, _money):
            stage(story)


def _nodes(story: NetworkStory) -> None:
    """A chain, and three nodes that write themselves into its directory."""
    story.start_chain()
    none = '[engine]\nbackend = "none"\n'
    nodes = (("A", story.a, none), ("B", story.b, ENGINE), ("C", story.c, ENGINE))
    for name, node, engine in nodes:
        story.start_node(name, node, engine)
    for name, node, _ in nodes:
        story.wait_for_node(name, node)
    story.say(
        "1. three nodes, known to each other by the chain's directory alone: A holds works (no "
        "model), B trains and serves, C serves"
    )


def _work(story: NetworkStory) -> None:
    """A creator without gas uploads once, at A."""
    said = story.register_work(story.a)
    require(not _plain_in(story.a), "the custodian's disk holds words of the work")
    story.say(
        f"2. alma registers work 1 and uploads it to A, sealed, {said['sealed']['sizeBytes']} "
        "bytes; no file of A's holds a word of it"
    )


def _plain_in(node: World) -> list[Path]:
    """Return the files of a node that hold a line of the work."""
    files = (path for path in node.folder.rglob("*") if path.is_file())
    return [path for path in files if any(line in path.read_bytes() for line in lines_of_work())]


def _training(story: NetworkStory) -> None:
    """B needs the work's id alone: license, key, blob, training."""
    story.license_work(story.b)
    story.say(
        f"3. B licenses work 1, pays alma {shown(story.tokens('alma'))}, gets its key from A, "
        "fetches it by content id, opens it and checks it against the chain"
    )
    story.train(story.b)
    story.say(
        f"4. B trains {TRAINING['steps']} steps and registers adapter {story.adapter}; its "
        f"weights travel sealed as {story.cid[:20]}..."
    )


def _permission(story: NetworkStory) -> None:
    """C serves B's adapter when B lets it, and not before."""
    reason = story.activate(story.c, *DEARER, fails=True)
    require("adapter-not-servable" in reason, f"C was refused for another reason: {reason}")
    story.permit(story.b, "C")
    story.activate(story.c, *DEARER)
    story.say(
        f"5. C is refused adapter {story.adapter} until B permits it on chain; then it finds B in "
        "the directory, gets the key, fetches, opens and serves"
    )


def _answer(story: NetworkStory) -> None:
    """A buyer without a URL asks for a name; the node that answers is killed meanwhile."""
    buyer, key = story.buyer, story.fund_buyer()
    (model,) = buyer.json("buyer", "models", ADAPTER, *story.way)["models"]
    served = [offer["node"] for offer in model["offers"]]
    wanted = [story.addresses["B"], story.addresses["C"]]
    require(served == wanted, f"{ADAPTER} is served by {served}, not by B and C")
    buyer.start(
        "proxy", "buyer", "proxy", "--port", buyer.proxy_port, "--key", key,
        "--max-deposit", "1.00", *story.way,
    )  # fmt: skip
    buyer.wait_for("proxy", f"{buyer.proxy_url}/models")
    before, after, story.parts = _streamed(story)
    first, second = _parts(story)
    require(bool(first.get("fault")) and bool(after.strip()), "C added nothing to the answer")
    story.say(
        f"6. a buyer without a URL or gas asks for {ADAPTER!r}: B and C sell it, B for less, so B "
        f"answers: {short(before)}"
    )
    story.say(
        f"7. B is killed (SIGKILL) after {first['completionTokens']} tokens; the same stream goes "
        f"on at C, {second['completionTokens']} tokens: {short(after)}"
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
            require("error" not in chunk, f"the answer broke off: {chunk}")
            text = "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            texts[killed] += text
            pieces += bool(text)
            if pieces >= KILLED_AFTER and not killed:
                story.b.end("node", by=signal.SIGKILL)
                killed = True
    require(killed, f"the answer ended after {pieces} pieces, before B was killed")
    return texts[0], texts[1], parts


def _parts(story: NetworkStory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two parts of the answer; raise DemoError if they are not B's and C's."""
    nodes = [part["node"] for part in story.parts]
    require(
        nodes == [story.addresses["B"], story.addresses["C"]],
        f"the answer came from {nodes}, not from B and then C",
    )
    first, second = story.parts
    carried = second["promptTokens"] - first["promptTokens"]
    require(carried > 0, "what B wrote is not in C's prompt")
    require(
        first["completionTokens"] + second["completionTokens"] <= ANSWER_TOKENS,
        "more tokens were paid than were asked for",
    )
    return first, second


def _money(story: NetworkStory) -> None:
    """C claims, B comes back and claims, and the chain has what the shares say, to the unit."""
    fee = story.tokens("alma")
    at_c = claimed(story.c)
    run_node(story.b)
    story.b.wait_for("node", f"{story.b.node_url}/healthz")
    at_b = claimed(story.b)
    second = story.parts[1]
    # A voucher is signed a step ahead: what an answer that ended early did not use is credit there.
    require(at_c >= int(second["cost"]), f"C claimed {at_c}, and billed {second['cost']}")
    require(at_b > 0, "B claimed nothing of what was signed to it")
    found = story.require_shares({"C": at_c, "B": at_b}, trainer="B", alma_had=fee)
    story.say(
        f"9. C billed {shown(int(second['cost']))} and claims {shown(at_c)}, as was signed; "
        f"B comes back and claims the {shown(at_b)} that were signed before it was killed"
    )
    story.say(
        f"10. of {shown(at_b + at_c)} alma has {shown(found['alma'])}, B as trainer and server "
        f"{shown(found['B'])}, C {shown(found['C'])}: as the shares say, to the unit"
    )
