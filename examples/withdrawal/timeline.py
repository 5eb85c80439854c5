"""Tell a withdrawal from the signature to the empty disk, with what really happened at each time.

Two creators register works: alma's is of class 2, bruno's of class 1. A node licenses both, trains
an adapter on both and sells it. Then both withdraw. Each line is what a part answered or the chain
says; a line that is not true raises ``DemoError``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from examples.demo.world import DemoError
from examples.withdrawal.stage import NODE, Network, RunningNode, network, running_node, settings
from viz.domain.display import moment
from viz.domain.eip712 import settlement_domain
from viz.domain.units import AdapterId, ContentId, hex_of
from viz.protocol.destruction import CERTIFICATES_PATH, Certificates, DestructionCertificate
from viz.protocol.messages import adapter_model
from viz.services.work_records import load_record
from viz.settings.engine_config import EngineConfig

ALMA: Final = 1
BRUNO: Final = 2
BUYER: Final = 4
SESSION: Final = 5
DEPOSIT_UNITS: Final = 2_500_000
DAY_S: Final = 86_400
_NEEDLE_CHARS: Final = 24


@dataclass
class Told:
    """What the story found, for whoever checks it."""

    lines: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    certificates: tuple[DestructionCertificate, ...] = ()
    found_before: list[str] = field(default_factory=list)
    found_after: list[str] = field(default_factory=list)
    kept_of_bruno: list[str] = field(default_factory=list)


class Story:
    """One withdrawal below one folder."""

    def __init__(self, net: Network, node: RunningNode, folder: Path, say: Callable[[str], None]):
        self.net, self.node, self.folder = net, node, folder
        self.told, self._say = Told(), say
        self._began_s = 0

    async def note(self, words: str) -> None:
        """Tell what just happened, with the chain's time since the withdrawal."""
        now_s = await self.net.chain.chain_time()
        passed = now_s - self._began_s if self._began_s else 0
        clock = f"day {passed // DAY_S}, {passed % DAY_S // 3600:02}:{passed % 3600 // 60:02}"
        line = f"{clock if self._began_s else 'before':<13} {words}"
        self.told.lines.append(line)
        self._say(line)

    async def look(self) -> None:
        """Take the look that a node takes by itself once a minute."""
        await self.node.services.withdrawals.step()

    async def pass_time(self, seconds: int) -> None:
        await self.net.anvil.advance_time(seconds)

    async def asked(self, path: str, wanted: int) -> dict[str, Any]:
        """Ask the node as anybody does; raise DemoError if the status is another one."""
        async with self.node.http.get(self.node.url + path) as found:
            answer: dict[str, Any] = {}
            if found.content_type.endswith("json"):
                answer = await found.json(content_type=None)
            if found.status != wanted:
                raise DemoError(f"{path} answered {found.status}, not {wanted}: {answer}")
        self.told.answers.append({"path": path, "status": wanted, **answer})
        return answer


async def tell(
    folder: Path,
    engine: EngineConfig,
    training: dict[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> Told:
    """Run the whole story below ``folder``; ``training`` are the settings of its short runs."""
    home = folder / "node"
    home.mkdir(parents=True)
    async with network(home) as net:
        config = settings(home, net.anvil.url, engine)
        works = {
            ALMA: await net.register(ALMA, "varn-point", folder / "operator" / "varn-point"),
            BRUNO: await net.register(BRUNO, "dunmallow-bakery", folder / "operator" / "bakery"),
        }
        async with running_node(config) as node:
            story = Story(net, node, folder, say)
            adapter_id, blob = await _sell(story, works, training)
            await _withdraw(story, works, training, adapter_id)
            await _end(story, works, adapter_id, blob)
        # A new process: nothing of this was only in memory.
        async with running_node(config) as node:
            story.node = node
            problem = await story.asked(f"/v1/models/{adapter_model(AdapterId(adapter_id))}", 451)
            await story.asked(f"/ipfs/{blob}", 451)
            await story.note(f"the node starts anew: still 451, {problem['code']}, and 451 for it")
        return story.told


async def _sell(
    story: Story, works: dict[int, ContentId], training: dict[str, Any]
) -> tuple[int, str]:
    """License, train, publish, and let a buyer deposit."""
    net, node = story.net, story.node
    await net.done(0, "Token", "mint", net.sender(NODE).address, 100_000_000)
    for content_id in works.values():
        await node.operate("/grants", {"contentId": int(content_id)})
    paths = [{"path": str(_work(story, name))} for name in ("varn-point", "bakery")]
    training_id = await node.trained({"name": "coast", "works": paths, "settings": training})
    adapter_id = await node.publish(training_id)
    await net.open_channel(BUYER, SESSION, net.sender(NODE).address, DEPOSIT_UNITS)
    state = await net.chain.adapter(AdapterId(adapter_id))
    assert state is not None
    await story.asked(f"/v1/models/{adapter_model(AdapterId(adapter_id))}", 200)
    await story.asked(f"/ipfs/{state.cid}", 200)
    story.told.found_before = _search(story, "varn-point", state.weights_digest)
    await story.note(
        f"adapter {adapter_id} holds work {works[ALMA]} (class 2, notice period 7 days) and work "
        f"{works[BRUNO]} (class 1); it is on offer, and a buyer has deposited 2.50"
    )
    await story.note(
        f"work {works[ALMA]}'s words, salt or weights stand in {len(story.told.found_before)} "
        "files of the node and its operator"
    )
    return adapter_id, state.cid


async def _withdraw(
    story: Story, works: dict[int, ContentId], training: dict[str, Any], adapter_id: int
) -> None:
    """Withdraw both works while a training on alma's runs."""
    net, node = story.net, story.node
    body = {
        "name": "another",
        "works": [{"path": str(_work(story, "varn-point"))}],
        "settings": {**training, "steps": 100_000},
    }
    training_id = str((await node.operate("/trainings", body))["id"])
    async for event in node.services.trainings.events(training_id):
        if event["event"] == "started":
            break
    for account, content_id in works.items():
        await net.done(account, "ContentRegistry", "withdraw", content_id)
    content = await net.chain.content(works[ALMA])
    assert content is not None
    story._began_s = content.withdrawn_at
    await story.note(f"both owners withdraw, at {moment(content.withdrawn_at)}")
    for content_id in works.values():
        status, answer = await node.ask(
            "POST", "/operator/v1/grants", {"contentId": int(content_id)}
        )
        if status != 403:
            raise DemoError(f"a grant to withdrawn work {content_id}: {status} {answer}")
    await story.note(f"no new grant to either: 403, {answer['detail']}")
    await story.look()
    record = await node.services.trainings.record(training_id)
    if record.state != "cancelled":
        raise DemoError(f"the training on work {works[ALMA]} is {record.state}")
    await story.note(f"the running training stops: {record.error}")
    state = await net.chain.adapter(AdapterId(adapter_id))
    assert state is not None
    await story.note(
        f"the node calls enforce: adapter {adapter_id} retires {moment(state.retires_at)}, and "
        "answers until then"
    )
    await story.asked(f"/v1/models/{adapter_model(AdapterId(adapter_id))}", 200)
    status, plan = await node.ask("GET", f"/operator/v1/adapters/{adapter_id}/succession")
    if status != 200 or plan["without"] != [int(works[ALMA])]:
        raise DemoError(f"the successor's plan: {status} {plan}")
    successor = await node.trained(plan["request"])
    follows = await node.publish(successor, succeeds=adapter_id)
    await story.note(
        f"the operator trains a successor without work {works[ALMA]}: "
        f"{adapter_model(AdapterId(follows))} is the successor of adapter {adapter_id}"
    )


async def _end(story: Story, works: dict[int, ContentId], adapter_id: int, blob: str) -> None:
    """Move to the end of the notice period; then nothing of alma's work is left, and bruno's is."""
    net, model = story.net, adapter_model(AdapterId(adapter_id))
    state = await net.chain.adapter(AdapterId(adapter_id))
    assert state is not None
    await story.pass_time(state.retires_at - await net.chain.chain_time() - 600)
    await story.look()
    if AdapterId(adapter_id) not in story.node.services.catalogue.adapter_ids():
        raise DemoError("the notice period was not kept")
    await story.note("ten minutes before the end: the engine has it, sales have stopped")
    await story.pass_time(660)
    await story.look()
    problem = await story.asked(f"/v1/models/{model}", 451)
    await story.note(f"the end: unloaded; 451, {problem['detail']}")
    gone = await story.asked(f"/ipfs/{blob}", 451)
    await story.note(f"its blob is unpinned, deleted and denied: 451, {gone['code']}")
    found = await story.asked(CERTIFICATES_PATH.format(content_id=works[ALMA]), 200)
    story.told.certificates = Certificates.from_json(found).certificates
    where = settlement_domain(net.deployment.chain_id, net.deployment.settlement)
    for each in story.told.certificates:
        each.verify(where)
        kinds = ", ".join(f"{item.kind} {_short(item.name)}" for item in each.destroyed)
        await story.note(f"certificate of {each.certificate.node}: destroyed {kinds}")
        await story.note(f"  it cannot recall {'; '.join(each.beyond_recall)}")
    story.told.found_after = _search(story, "varn-point", state.weights_digest)
    await story.note(
        f"the disk is read for the work's words, salt and weights: in "
        f"{len(story.told.found_after)} files"
    )
    bakery = await asyncio.to_thread(
        lambda: [*_files_with(story, _needles(_work(story, "bakery")))]
    )
    story.told.kept_of_bruno = bakery
    await story.note(
        f"work {works[BRUNO]} is of class 1: no new adapter after its notice period, and the "
        f"operator's copy stays ({len(bakery)} files)"
    )
    # Both works' grants have ended by now: what the node destroyed does not make that less plain.
    path = f"/operator/v1/adapters/{adapter_id}/succession"
    status, plan = await story.node.ask("GET", path)
    if status != 403 or "no work" not in plan["detail"]:
        raise DemoError(f"a successor when no work is left: {status} {plan}")
    payer = net.sender(BUYER).address
    signer = net.sender(SESSION).address
    await net.done(BUYER, "Settlement", "requestClose", signer, net.sender(NODE).address)
    await story.pass_time(DAY_S + 60)
    await net.done(BUYER, "Settlement", "withdraw", signer, net.sender(NODE).address)
    back = await net.chain.token_balance(payer)
    if back != DEPOSIT_UNITS:
        raise DemoError(f"the buyer has {back} of {DEPOSIT_UNITS} units back")
    await story.note("the buyer closes its channel without the node and has its 2.50 back")


# reading the disk


def _work(story: Story, name: str) -> Path:
    return story.folder / "operator" / name / "work.jsonl"


def _search(story: Story, name: str, weights_digest: bytes) -> list[str]:
    """Return the files with words of a work, with its salt, or with the adapter's bytes.

    What to look for comes from the examples and from a memory of the salt, since the copies may be
    gone.
    """
    if not story.told.found_before:
        _REMEMBERED[name] = (_needles(_work(story, name)), _weights(story, weights_digest))
    words, weights = _REMEMBERED[name]
    return sorted(set(_files_with(story, (*words, weights))))


_REMEMBERED: dict[str, tuple[tuple[bytes, ...], bytes]] = {}


def _needles(work: Path) -> tuple[bytes, ...]:
    """Return parts of every line of a work, and its salt, raw and as text."""
    import json

    found = []
    for line in work.read_text(encoding="utf-8").splitlines():
        for message in json.loads(line)["messages"]:
            text = str(message["content"])
            if len(text) >= _NEEDLE_CHARS:
                found.append(text[-_NEEDLE_CHARS:].encode())
    record = load_record(work)
    assert record is not None and found
    return (*found, record.salt, hex_of(record.salt)[2:].encode())


def _weights(story: Story, digest: bytes) -> bytes:
    """Return bytes from the middle of an adapter's file, where no other file has them."""
    path = story.folder / "node" / "adapters" / f"{digest.hex()}.safetensors"
    data = path.read_bytes()
    return data[len(data) // 2 : len(data) // 2 + 64]


def _files_with(story: Story, needles: Iterable[bytes]) -> Iterable[str]:
    wanted = [each for each in needles if each]
    for place, _, names in os.walk(story.folder):
        for name in names:
            path = Path(place) / name
            data = path.read_bytes()
            if any(each in data for each in wanted):
                yield str(path.relative_to(story.folder))


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:16]}..."
