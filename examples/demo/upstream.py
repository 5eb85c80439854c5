"""One paid question to two engines: what `./scripts/demo --upstream` runs, told in about ten lines.

Node E computes in its own process; node U lets a vLLM server compute, which loaded what
`viz base export` wrote. The buyer asks both the same, and compares answers, bills and payments.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.engine_parts.vllm_process import VllmProcess
from rich.console import Console

from examples.demo.market import (
    TRAINING,
    Answer,
    Market,
    claimed,
    people,
    require,
    shown,
)
from examples.demo.world import World

QUESTION: Final = "Tell me a long story about the keeper of the light, in many sentences."
ANSWER_TOKENS: Final = 64
STREAMS, CONTEXT_TOKENS = 2, 1_024
MAX_ADAPTERS, MAX_RANK = 4, 16
# Both compute in float32, so that they differ by rounding alone.
EMBEDDED: Final = (
    f'[engine]\ncompute = "float32"\nmax_streams = {STREAMS}\ncontext_tokens = {CONTEXT_TOKENS}\n'
)
UPSTREAM: Final = (
    f'[engine]\nbackend = "upstream"\nmax_streams = {STREAMS}\ncontext_tokens = {CONTEXT_TOKENS}\n'
    '[engine.upstream]\nurls = ["{url}"]\narithmetic = "float32"\n'
    f"max_adapters = {MAX_ADAPTERS}\nmax_rank = {MAX_RANK}\n"
)


@dataclass(slots=True, kw_only=True)
class UpstreamStory(Market):
    """Everybody of the story, the server, and what came about so far."""

    e: World
    u: World
    server: VllmProcess
    base_model: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[tuple[str, World], ...]:
        return (("E", self.e), ("U", self.u))


def tell(folder: Path, console: Console) -> None:
    """Tell the whole story; raise DemoError where something does not hold."""
    names = ("chain", "alma", "e", "u", "buyer")
    with people(folder, console, names) as (chain, alma, e, u, buyer):
        exported = u.folder / "base"
        with serving(exported, folder / "vllm.log") as server:
            story = UpstreamStory(chain=chain, alma=alma, e=e, u=u, buyer=buyer, server=server)
            for stage in (_base, _work, _server, _permission, _answer, _money, _bare):
                stage(story)


@contextmanager
def serving(checkpoint: Path, log: Path) -> Iterator[VllmProcess]:
    """Give a vLLM server for the checkpoint, not started yet; end it at the end."""
    server = VllmProcess(
        checkpoint,
        log,
        sorted(os.sched_getaffinity(0)),
        context_tokens=CONTEXT_TOKENS,
        streams=STREAMS,
        max_adapters=MAX_ADAPTERS,
        max_rank=MAX_RANK,
    )
    try:
        yield server
    finally:
        server.kill()


def _base(story: UpstreamStory) -> None:
    """The base model as adapters are trained against it, written for another server."""
    made = story.u.json("base", "export", story.u.folder / "base")
    story.base_model = made["base"]
    story.server.start()
    story.say(
        f"1. viz base export writes {made['base']} after 4-bit quantisation and back, digest "
        f"{made['digest'][:18]}..., {made['bytes'] >> 20} MiB; a vLLM server loads that folder"
    )


def _work(story: UpstreamStory) -> None:
    """A chain, and node E, which trains an adapter while the server starts."""
    story.start_chain()
    story.start_node("E", story.e, EMBEDDED)
    story.wait_for_node("E", story.e)
    story.register_work(story.e)
    story.license_work(story.e)
    story.train(story.e)
    story.say(
        f"2. node E (embedded engine) licenses alma's work, trains {TRAINING['steps']} steps and "
        f"registers adapter {story.adapter}"
    )


def _server(story: UpstreamStory) -> None:
    """Node U uses the server once its log-probabilities are right."""
    story.server.wait()
    story.start_node("U", story.u, UPSTREAM.format(url=story.server.url))
    story.wait_for_node("U", story.u)
    story.u.wait_until("node", lambda: _engine(story)["servers_ready"] == 1)
    figures = _engine(story)
    story.say(
        f"3. node U (upstream engine) uses vLLM {_told(story, '/version')['version']}; canaries "
        f"asked {figures['canaries']:.0f}, wrong {figures['canary_mismatches']:.0f}"
    )


def _engine(story: UpstreamStory) -> dict[str, float]:
    """Return the figures of U's engine, as its operator sees them."""
    status = story.u.json("status", "--node", story.u.node_url)
    return dict(status["engines"][story.base_model])


def _told(story: UpstreamStory, path: str) -> Any:
    with urllib.request.urlopen(story.server.url + path, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def _permission(story: UpstreamStory) -> None:
    story.permit(story.e, "U")
    story.activate(story.u)
    story.say(f"4. E permits U to serve adapter {story.adapter}; U gets key and weights from E")


def _answer(story: UpstreamStory) -> None:
    """The buyer asks both nodes the same; the two receipts differ in nothing that is paid for."""
    key = story.fund_buyer()
    for name, node in story.nodes:
        story.open_channel(key, node)
        model = f"viz-adapter-{story.adapter}"
        story.answers[name] = story.ask(node, model, QUESTION, ANSWER_TOKENS)
    at_e, at_u = story.answers["E"], story.answers["U"]
    story.say(f"5. a buyer asks E for adapter {story.adapter}, {at_e}")
    _require_same(at_e, at_u)
    models = {each["id"]: each["parent"] for each in _told(story, "/v1/models")["data"]}
    loaded = [name for name in models if name.startswith(f"viz-{story.adapter}-")]
    require(len(loaded) == 1, f"the server does not hold adapter {story.adapter}: {models}")
    received, wrong = (_engine(story)[name] for name in ("received_tokens", "canary_mismatches"))
    require(received > 0, "no token came from the server")
    require(wrong == 0, f"{wrong:.0f} canaries were wrong")
    story.say(
        f"6. the same question to U, {at_u}; the text is E's, character for character, so are "
        f"tokens and bill; the server has {loaded[0]} and sent {received:.0f} tokens"
    )


def _require_same(one: Answer, other: Answer) -> None:
    require(one == other, f"the answers differ:\nE, {one}\n{one!r}\nU, {other}\n{other!r}")


def _money(story: UpstreamStory) -> None:
    """Both claim what was signed to them, and the chain has what the shares say, to the unit."""
    before = story.tokens("alma")
    claims = {name: claimed(node) for name, node in story.nodes}
    bills = {name: answer.cost for name, answer in story.answers.items()}
    # A voucher is signed a step ahead: what an answer that ended early did not use is credit there.
    covered = all(claims[name] >= bills[name] > 0 for name in bills)
    require(covered, f"{claims} were claimed, and {bills} billed")
    found = story.require_shares(claims, trainer="E", alma_had=before)
    story.say(
        f"7. E billed {shown(bills['E'])} and claims {shown(claims['E'])}, as was signed, U "
        f"{shown(bills['U'])} and {shown(claims['U'])}; of {shown(sum(claims.values()))} alma has "
        f"{shown(found['alma'])}, E as trainer and server {shown(found['E'])}, U "
        f"{shown(found['U'])}: as the shares say, to the unit"
    )


def _bare(story: UpstreamStory) -> None:
    """Without the adapter both say something else: it is the adapter that was compared above."""
    at_e, at_u = (
        story.ask(node, story.base_model, QUESTION, ANSWER_TOKENS) for _, node in story.nodes
    )
    _require_same(at_e, at_u)
    require(at_e.text != story.answers["E"].text, "the adapter changes nothing in the answer")
    story.say(f"8. the base model alone answers otherwise, and alike at both, {at_u}")
