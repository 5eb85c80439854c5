"""Training as a service, on the real worker: grants, the registered file, then an audit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.ledger import MemoryStore
from tests.integration.training.conftest import CREATOR, SALT, SETTINGS

from viz.audit.adapter_audit import audit_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.card import LEAST_KEPT_PERCENT, LEAST_RIGHT_PERCENT
from viz.domain.eip712 import public_address
from viz.domain.license import ADAPTER_USES, Terms, Use
from viz.domain.manifest import manifest_hash, open_manifest, seal_manifest
from viz.domain.ports.chain import ChainReader, ContentState, GrantState, TermsState
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.questions import QUESTIONS_FILE
from viz.domain.units import ZERO_HASH, Address, ContentId, Hash32, hex_of
from viz.domain.verdict import Verdict
from viz.domain.work import parse_work
from viz.errors import (
    AdapterNotTaught,
    CommitmentMismatch,
    InvalidRequest,
    NoLiveGrant,
    VizError,
)
from viz.services.adapters.publishing import Publication
from viz.services.training.publisher import publication_of
from viz.services.training.queue import MANIFEST_FILE, TrainingQueue, seal_with
from viz.services.training.wish import PublicationWish, awaits_publication
from viz.training import process as process_module
from viz.training.run import MINIMUM_PROBES

KEY = bytes([3] * 32)
TRAINER = public_address(KEY)
ONE = ContentId(1)


class _Clock:
    def now_s(self) -> int:
        return 1_800_000_000


@dataclass
class _Chain:
    """A chain with one work, and a grant that the test may change."""

    commitment: Hash32
    live: bool = True
    uses: Use = ADAPTER_USES
    withdrawn_at_s: int = 0

    async def content(self, content_id: ContentId) -> ContentState | None:
        if content_id != ONE:
            return None
        return ContentState(
            ONE, CREATOR, CREATOR, self.commitment, Hash32(bytes(32)), self.withdrawn_at_s
        )

    async def grant(self, content_id: ContentId, trainer: Address) -> GrantState | None:
        return GrantState(content_id, trainer, Hash32(bytes(32)), 0, self.live)

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        return TermsState(Terms(25, 0, 0, 0, 0, int(self.uses), False), ZERO_HASH)


@dataclass
class _Place:
    training: TrainingQueue
    chain: _Chain
    ledger: MemoryStore
    request: dict[str, Any]
    folder: Path
    loop: asyncio.Task[None]

    def publication(self, record: TrainingRecord, *, anyway: bool = False) -> Publication:
        """Return what would be registered of a run, at the product's thresholds."""
        wish = PublicationWish(3_000, 1_000, anyway=anyway)
        least = (LEAST_RIGHT_PERCENT, LEAST_KEPT_PERCENT)
        return publication_of(record, wish, directory=self.folder, least_percent=least)


@pytest.fixture
async def place(tiny: LoadedBase, tmp_path: Path) -> AsyncIterator[_Place]:
    """A service with its queue running, and a request for the one licensed work."""
    path = tmp_path / "work.jsonl"
    lines = Path("examples/works/varn-point/work.jsonl").read_text().splitlines()[:10]
    path.write_text("\n".join(lines))
    commitment = parse_work("dialogue", path.read_bytes()).commitment(CREATOR, SALT)
    chain, ledger = _Chain(commitment), MemoryStore()
    training = _queue(chain, ledger, tmp_path, tiny)
    settings = {
        name: getattr(SETTINGS, name)
        for name in ("rank", "alpha", "steps", "rows_per_step", "evaluate_every", "probes")
    }
    work = {
        "path": str(path),
        "contentId": 1,
        "kind": "dialogue",
        "creator": CREATOR,
        "salt": hex_of(SALT),
    }
    request = {"name": "small", "works": [work], "settings": settings}
    loop = asyncio.create_task(training.run())
    yield _Place(training, chain, ledger, request, tmp_path / "runs", loop)
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


def _queue(chain: _Chain, ledger: MemoryStore, folder: Path, base: LoadedBase) -> TrainingQueue:
    return TrainingQueue(
        cast(ChainReader, chain),
        ledger,
        _Clock(),
        TRAINER,
        seal_with(KEY),
        directory=folder / "runs",
        bases=[base.model],
        cache_dir=folder / "cache",
        threads=1,
    )


async def _end(place: _Place, training_id: str) -> TrainingRecord:
    async for _ in place.training.events(training_id):
        pass
    return await place.training.record(training_id)


async def test_a_licensed_work_becomes_a_publication_that_an_audit_reproduces(
    place: _Place, tiny: LoadedBase, tmp_path: Path
) -> None:
    """From request to signed manifest; a second process retrains it to the same bytes.

    The work has two committed questions. They are counted apart, the state is chosen by them too,
    and an auditor with other questions is told so instead of convicting.
    """
    questions = tmp_path / QUESTIONS_FILE
    asked = [{"id": str(n), "question": f"Who is {n}?", "accepted": ["Nobody"]} for n in (1, 2)]
    questions.write_text(json.dumps({"questions": asked}))
    started = await place.training.start(place.request)
    kinds, steps = [], []
    async for event in place.training.events(started.training_id):
        kinds.append(event["event"])
        if event["event"] == "step":  # a checkpoint that follows does not hide where it stands
            steps.append(place.training.standing(started.training_id)["step"])
    assert steps and min(steps) >= 1
    assert kinds[0] == "started"
    assert kinds[-1] == "end"
    record = await place.training.record(started.training_id)
    assert record.state == "done", record.error
    with pytest.raises(AdapterNotTaught, match="publish-anyway"):  # a tiny base learns nothing
        place.publication(record)
    publication = place.publication(record, anyway=True)
    assert publication.shares == ((1, 10_000),)
    envelope = (place.folder / started.training_id / MANIFEST_FILE).read_bytes()
    manifest = open_manifest(envelope, expected_hash=publication.manifest_hash)
    assert (manifest.trainer, manifest.base_model) == (TRAINER, tiny.digest)
    assert hex_of(SALT) not in json.dumps(manifest.statement())
    measured = manifest.measurements
    assert measured["committed"]["asked"] == 2
    unseen = measured["recall"]["asked"]
    told = [event async for event in place.training.events(started.training_id)][-1]
    curve = told["result"]["metrics"]["curve"]["recalled"]
    assert {asked for _, _, asked in curve} == {unseen + 2}
    probed = manifest.measurements["memorisation"]
    assert set(probed) == {"adapter", "base"}
    assert probed["adapter"]["probes"] == MINIMUM_PROBES > SETTINGS.probes
    assert probed["adapter"]["passages"] > SETTINGS.probes

    async def audit(signed: bytes) -> Verdict:
        report = await audit_adapter(
            signed,
            place.request["works"],
            directory=tmp_path / hex_of(manifest_hash(signed)),
            base_model=str(tiny.directory),
            cache_dir=tmp_path / "cache",
        )
        assert report.rows_match
        return report.verdict

    assert await audit(envelope) is Verdict.REPRODUCED
    questions.unlink()
    with pytest.raises(InvalidRequest, match=f"own {QUESTIONS_FILE} beside them"):
        await audit(envelope)
    measured = {name: value for name, value in measured.items() if name != "questions"}
    manifest = replace(manifest, measurements=measured)
    lie = replace(manifest, settings={**manifest.settings, "seed": 8})
    forged = replace(lie, rows_digest=_rows_digest_of(place, lie.settings, tiny))
    assert await audit(seal_manifest(forged, KEY)) is Verdict.DIFFERENT


def _rows_digest_of(place: _Place, settings: Any, base: LoadedBase) -> Hash32:
    from viz.training.dataset import build_dataset, write_dataset
    from viz.training.neighbours import neighbours_of

    path = Path(place.request["works"][0]["path"])
    work = parse_work("dialogue", path.read_bytes())
    dataset = build_dataset(
        [work],
        seed=settings["seed"],
        held_out_share=settings["held_out_share"],
        vocabulary=neighbours_of(base),
    )
    return write_dataset(path.with_name("rows.jsonl"), dataset, [work])


async def test_a_run_that_a_stopped_node_cut_off_ends_and_keeps_the_wish(
    place: _Place, tmp_path: Path, tiny: LoadedBase
) -> None:
    """Protects who asked for a sale: a restarted node ends the run, and then it is published."""
    wish = {"royaltyBps": 3_000, "trainerBps": 1_000}
    long = {**place.request, "publish": wish}
    record = await place.training.start(long)
    async for event in place.training.events(record.training_id):
        if event["event"] == "step":
            break
    place.loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await place.loop
    assert (await place.training.record(record.training_id)).state == "running"
    again = _queue(place.chain, place.ledger, tmp_path, tiny)
    loop = asyncio.create_task(again.run())
    await again.done.wait()
    ended = await again.record(record.training_id)
    assert awaits_publication(ended) and ended.request["publish"] == wish
    following = asyncio.ensure_future(_last(again, record.training_id))
    published = {"state": "published", "adapter_id": 3, "cid": "bafy", "offer": None}
    await again.published(record.training_id, published)
    told = await following
    assert (told["state"], told["result"]["publication"]) == ("done", published)
    assert (told["result"]["adapterId"], told["result"]["cid"]) == (3, "bafy")
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


async def _last(training: TrainingQueue, training_id: str) -> Any:
    return [event async for event in training.events(training_id)][-1]


async def test_nothing_is_trained_without_a_live_grant_that_permits_it(place: _Place) -> None:
    """No grant, a lapsed grant and a grant without the uses are refused before anything runs."""
    place.chain.live = False
    with pytest.raises(NoLiveGrant, match="viz content license 1"):
        await place.training.start(place.request)
    place.chain.withdrawn_at_s = 1_800_000_000
    with pytest.raises(NoLiveGrant, match="was withdrawn, 2027-01-15 08:00:00 UTC, for ever"):
        await place.training.start(place.request)
    place.chain.live, place.chain.uses = True, Use.TRAIN | Use.SERVE
    with pytest.raises(NoLiveGrant, match="does not permit"):
        await place.training.start(place.request)
    assert not place.ledger.training_rows
    assert not place.folder.exists()


async def test_a_dry_run_needs_no_grant_and_names_the_price(place: _Place) -> None:
    """The operator learns rows, time and fees before paying anything."""
    place.chain.live = False
    plan = await place.training.plan(place.request)
    assert plan.estimate.rows > 0
    assert plan.estimate.seconds > 0
    assert plan.fees_units == {ONE: 25}
    assert not place.folder.exists()


async def test_a_grant_that_lapses_in_the_queue_stops_the_run(place: _Place) -> None:
    """The check is made again when the run's turn comes."""
    record = TrainingRecord("late", "queued", place.request)
    await place.ledger.put_training(record)
    place.chain.live = False
    loop = asyncio.create_task(place.training.run())  # a node that starts again finds it queued
    ended = await _end(place, "late")
    loop.cancel()
    assert ended.state == "failed"
    assert "no live grant" in ended.error


async def test_an_adapter_that_repeats_its_work_is_not_activated(place: _Place) -> None:
    """Over the license's limit there is no manifest, so nothing to publish, and advice instead."""
    eager = {**place.request["settings"], "steps": 60, "max_verbatim_tokens": 1}
    record = await place.training.start({**place.request, "settings": eager})
    ended = await _end(place, record.training_id)
    assert ended.state == "failed"
    assert "word for word" in ended.error
    assert "fewer steps" in ended.error
    assert not (place.folder / record.training_id / MANIFEST_FILE).exists()
    with pytest.raises(InvalidRequest, match="not done"):
        place.publication(ended)


async def test_a_worker_that_dies_and_one_that_hangs_do_not_hold_up_the_next(
    place: _Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the queue: kill -9 and a stopped process each fail one run, and the next is done."""
    silence_s = [900.0]
    monkeypatch.setattr(process_module, "_silence_s", lambda _: silence_s[0])
    long = {**place.request, "settings": {**place.request["settings"], "steps": 5_000}}
    fates = [signal.SIGKILL, signal.SIGSTOP]
    lost = [(await place.training.start(long)).training_id for _ in fates]
    last = (await place.training.start(place.request)).training_id
    for training_id, fate in zip(lost, fates, strict=True):
        async for event in place.training.events(training_id):
            if event["event"] == "started" and fate is signal.SIGSTOP:
                silence_s[0] = 3.0
            elif event["event"] == "step" and event["step"] == 1:
                (pid,) = [runner.pid for runner in place.training._runners.values()]
                assert pid is not None
                os.kill(pid, fate)
        silence_s[0] = 900.0
    errors = [(await place.training.record(each)).error for each in lost]
    assert "status -9" in errors[0] and "no sign of life" in errors[1]
    assert (await _end(place, last)).state == "done"
    for each in lost:
        assert {path.name for path in (place.folder / each).iterdir()} == {"worker.log"}


async def test_runs_wait_for_one_another_and_give_way_to_serving(place: _Place) -> None:
    """The rule of the shared CPU: one run at a time, in order, niced; and none leaves a trace."""
    first, second = [(await place.training.start(place.request)).training_id for _ in range(2)]
    niceness: list[int] = []
    async for event in place.training.events(first):
        if event["event"] == "started":
            (pid,) = [runner.pid for runner in place.training._runners.values()]
            assert pid is not None
            niceness.append(os.getpriority(os.PRIO_PROCESS, pid))
            assert (await place.training.record(second)).state == "queued"
    assert len(niceness) == 1
    assert niceness[0] > os.getpriority(os.PRIO_PROCESS, 0)
    assert (await _end(place, second)).state == "done"
    folder = place.folder / first
    assert {path.name for path in folder.iterdir()} == {
        "adapter.safetensors",
        "dataset.jsonl",
        "manifest.json",
        "metrics.json",
        "worker.log",
    }
    kinds = [event["event"] async for event in place.training.events(first)]
    assert kinds == ["end"] and not place.training._progress.last(first)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"works": []}, InvalidRequest),
        ({"works": "x"}, InvalidRequest),
        ({"works": [{"path": "nowhere.txt"}]}, InvalidRequest),
        ({"settings": {"steps": 0}}, InvalidRequest),
        ({"settings": {"nonsense": 1}}, InvalidRequest),
    ],
)
async def test_malformed_requests_are_refused(
    place: _Place, change: dict[str, Any], error: type[VizError]
) -> None:
    """Whatever is wrong with a request is said before it is queued."""
    with pytest.raises(error):
        await place.training.start({**place.request, **change})


async def test_another_file_than_the_registered_one_is_refused(place: _Place) -> None:
    """A trainer cannot train on one text and name another."""
    path = Path(place.request["works"][0]["path"])
    path.write_text(path.read_text().replace("walnut", "peanut"))
    with pytest.raises(CommitmentMismatch):
        await place.training.start(place.request)
