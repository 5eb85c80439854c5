"""Train adapters on licensed works, one run at a time, from the check to the signed manifest.

Owns the queue of runs. Invariants:

- What was checked when a run was requested (``viz.services.training.checks``) is checked again when
  its turn comes.
- A result exists only with a signed manifest, and only within the license's memorisation limit.
- A run that has ended leaves nothing in memory, and on the disk only what
  ``viz.services.training.cleanup`` keeps.

Training shares the CPU with serving. So a run has a lower priority (nice), and each device has one
run at a time: the CPU, and every CUDA device.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from viz.domain.manifest import Manifest, seal_manifest
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import BaseModel
from viz.domain.ports.ledger import TrainingLedger, TrainingRecord
from viz.domain.units import Address, ContentId, Hash32, hex_of
from viz.domain.work import Work
from viz.errors import InvalidRequest, StoreError, TrainingCancelled, VizError
from viz.services.training.checks import CountTokens, TrainingCheck, TrainingPlan, count_bytes
from viz.services.training.cleanup import tidy
from viz.services.training.holdings import works_of
from viz.services.training.progress import TrainingProgress
from viz.services.training.request import base_of, inputs_of
from viz.services.training.resources import DeviceTurns, TrainingResources, as_requested
from viz.services.training.result import manifest_of, require_memorisation_limit, result_of
from viz.services.training.wish import (
    PUBLICATION,
    TAKEN_BACK,
    awaits_publication,
    is_over,
    publication_state,
)
from viz.training.process import TrainingEvent, TrainingProcess
from viz.training.run import Bounds, TrainingRun

MANIFEST_FILE: Final = "manifest.json"
_END_ATTEMPTS: Final = 3
_log = structlog.get_logger()

Seal = Callable[[Manifest], Awaitable[bytes]]


def seal_with(key: bytes) -> Seal:
    """Return a function that signs a manifest with ``key`` in a thread."""

    async def seal(manifest: Manifest) -> bytes:
        return await asyncio.to_thread(seal_manifest, manifest, key)

    return seal


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A manifest's bytes, and the record of the run that ended with it; None if not here."""

    envelope: bytes
    record: TrainingRecord | None = None


class TrainingQueue:
    """Queue and run the node's training runs. Queued runs start while ``run`` is running."""

    def __init__(
        self,
        reader: ChainReader,
        ledger: TrainingLedger,
        clock: Clock,
        trainer: Address,
        seal: Seal,
        *,
        directory: Path,
        bases: Sequence[BaseModel],
        cache_dir: Path,
        threads: int,
        bounds: Bounds | None = None,
        device: str = "cpu",
        retry_s: float = 5.0,
        count_tokens: CountTokens = count_bytes,
    ) -> None:
        """Take ``directory``, with one folder for each run, and ``cache_dir``, with base models.

        ``bases`` are the base models that adapters may be trained on; the first one, if a request
        names none. ``device`` is where runs train that do not say it; "auto": on CUDA if it is
        here. ``retry_s``: the wait before a refused write is tried again. ``count_tokens``: see
        ``TrainingCheck``.
        """
        self._retry_s = retry_s
        self._ledger, self._clock = ledger, clock
        self._trainer, self._seal = trainer, seal
        self._directory, self._bases, self._cache_dir = directory, bases, cache_dir
        self._bounds = bounds or Bounds()
        self._resources = TrainingResources(device, self._bounds, cache_dir)
        self._check = TrainingCheck(
            reader, trainer, threads, bases, self._resources, count_tokens=count_tokens
        )
        self._turns = DeviceTurns()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._runners: dict[str, TrainingProcess] = {}
        self._unwanted: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._progress = TrainingProgress()
        # Set when a run ends; the publisher waits for it and clears it.
        self.done = asyncio.Event()

    async def plan(self, request: Mapping[str, Any]) -> TrainingPlan:
        """Return what training would cost; see ``TrainingCheck.plan``."""
        return await self._check.plan(request)

    async def start(self, request: Mapping[str, Any]) -> TrainingRecord:
        """Check the request and queue the run.

        ``request`` has ``works``, and optionally ``name``, ``settings``, ``base`` (the name or
        digest of a base model served here; the record has the digest) and ``publish``: how its
        adapter is to be published when it is done (``wish_of``). Each work has a ``path``. If its
        registration record is not beside it, it also has ``contentId``, ``kind``, ``creator`` and
        ``salt``. Raises NoLiveGrant, CommitmentMismatch, InvalidRequest, InvalidWork, StoreFull.
        """
        self._ledger.require_room()
        base = base_of(request, self._bases)
        checked = await self._check.check(request, licensed=True)
        now = self._clock.now_s()
        record = TrainingRecord(
            training_id=secrets.token_hex(8),
            state="queued",
            request=as_requested(request, checked.settings) | {"base": hex_of(base.digest)},
            created_at=now,
            updated_at=now,
        )
        await self._put(record)
        self._enqueue(record.training_id)
        return record

    async def cancel(self, training_id: str) -> TrainingRecord:
        """Stop a run for good, between two steps; leave a run that has ended as it is.

        Of a run that is done and waits for its registration, the wish to publish is taken back.
        """
        record = await self.record(training_id)
        if record.ended:
            if awaits_publication(record) and publication_state(record) != "registered":
                await self.published(training_id, TAKEN_BACK)
                record = await self.record(training_id)
            return record
        # Note it first: the queue may start the run between the read above and the write below.
        self._unwanted.add(training_id)
        if record.state == "queued":
            why = self._reasons.get(training_id, "cancelled before it started")
            record = replace(record, state="cancelled", error=why)
            await self._put(record)
        else:
            if runner := self._runners.get(training_id):
                await runner.cancel()
            told = self._progress.of(training_id)
            while not (record := await self.record(training_id)).ended:
                await self._progress.beyond(told, len(told))
            self._unwanted.discard(training_id)
        return record

    async def under_way(self) -> Mapping[str, Sequence[ContentId]]:
        """Return the works of each unfinished run, by its id."""
        found: dict[str, Sequence[ContentId]] = {}
        for record in await self._ledger.trainings():
            if record.ended:
                continue
            try:
                inputs = await asyncio.to_thread(inputs_of, record.request)
            except InvalidRequest:
                continue  # a run with a damaged request fails when its turn comes
            found[record.training_id] = [ContentId(each.content_id) for each in inputs]
        return found

    async def works_used(self) -> frozenset[ContentId]:
        """Return the works of all runs, finished ones included."""
        records = await self._ledger.trainings()
        used = await asyncio.to_thread(lambda: [works_of(record) for record in records])
        return frozenset().union(*used)

    async def manifest(self, wanted: Hash32) -> ManifestFile | None:
        """Return the manifest with this hash that was signed here, and its run; None if none was.

        The file's bytes are not checked: whoever opens them does.
        """
        for record in await self._ledger.trainings():
            if record.result.get("manifestHash") == hex_of(wanted):
                path = self._directory / record.training_id / MANIFEST_FILE
                with contextlib.suppress(OSError):
                    return ManifestFile(await asyncio.to_thread(path.read_bytes), record)
        return None

    async def published(self, training_id: str, publication: Mapping[str, Any]) -> None:
        """Keep what came of publishing a run's adapter, with its id and CID if it has them."""
        record = await self.record(training_id)
        told: dict[str, Any] = {PUBLICATION: dict(publication)}
        if "adapter_id" in publication:
            told |= {"adapterId": publication["adapter_id"], "cid": publication["cid"]}
        state = publication["state"]
        await self._progress.tell(training_id, {"event": "publishing", "state": state})
        record = replace(record, result={**record.result, **told})
        await self._put(record)
        if is_over(record):
            self._progress.forget(training_id)

    async def stop(self, training_id: str, reason: str) -> None:
        """Stop a run as ``cancel`` does, and store the reason in its record."""
        self._reasons[training_id] = reason
        try:
            await self.cancel(training_id)
        finally:
            self._reasons.pop(training_id, None)

    async def record(self, training_id: str) -> TrainingRecord:
        """Return the record of a run; raise InvalidRequest if it is unknown."""
        record = await self._ledger.training(training_id)
        if record is None:
            raise InvalidRequest(f"there is no training {training_id!r}: list them")
        return record

    def standing(self, training_id: str) -> Mapping[str, Any]:
        """Return the last progress event of a running training; empty if there is none."""
        return self._progress.last(training_id)

    async def events(self, training_id: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield a run's events since it began in this process; the last one has its ``state``.

        For a run that is over already, only the last one is yielded. A run that is done and is to
        be published is over when it is.
        """
        record = await self.record(training_id)
        told = () if is_over(record) else self._progress.of(training_id)
        seen = 0
        while True:
            for event in told[seen:]:
                yield event
                seen += 1
            record = await self.record(training_id)
            if is_over(record) and seen == len(told):
                self._progress.forget(training_id)
                result, error = dict(record.result), record.error
                yield {"event": "end", "state": record.state, "result": result, "error": error}
                return
            await self._progress.beyond(told, seen)

    async def run(self) -> None:
        """Train the queued runs, one at a time on each device, until cancelled.

        Runs that were interrupted when the node stopped continue from their checkpoints.
        """
        for record in await self._ledger.trainings():
            if not record.ended:
                self._enqueue(record.training_id)
        await self._tidy()
        async with asyncio.TaskGroup() as turns:
            while True:
                turns.create_task(self._turn(await self._queue.get()))

    async def _turn(self, training_id: str) -> None:
        """Train a run when a device is free for it; its record is read again then."""
        try:
            record = await self.record(training_id)
            device = await asyncio.to_thread(self._resources.waits_for, record.request)
            async with self._turns.take(device) as cuda_index:
                record = await self.record(training_id)
                self._waiting.discard(training_id)
                if not record.ended:
                    if is_over(await self._train(record, cuda_index)):
                        self._progress.forget(training_id)
                    await self._tidy()
                self._unwanted.discard(training_id)
        except StoreError as error:
            _log.warning("training put off", training=training_id, reason=error.detail)
            await asyncio.sleep(self._retry_s)
            self._queue.put_nowait(training_id)

    async def _train(self, record: TrainingRecord, cuda_index: int | None) -> TrainingRecord:
        """Train to the end and return the record of how the run ended."""
        training_id = record.training_id
        try:
            base = base_of(record.request, self._bases)
        except VizError as error:  # its entry is switched off: it waits for the next start
            _log.warning("training waits for its base", training=training_id, reason=error.detail)
            await self._put_end(replace(record, state="queued"))
            return replace(record, state="queued")
        record = replace(record, state="running")
        try:
            await self._put(record)
            # Check again: a grant may have ended, or a file changed, while the run waited.
            checked = await self._check.check(record.request, licensed=True, cuda_index=cuda_index)
            if training_id in self._unwanted:
                raise TrainingCancelled("cancelled before it started")
            run = TrainingRun(
                name=str(record.request.get("name", training_id)),
                works=checked.inputs,
                settings=checked.settings,
                base_model=base.source,
                cache_dir=self._cache_dir,
                bounds=self._bounds,
                questions=checked.questions,
            )
            metrics = await self._follow(run, training_id, cuda_index)
            result = await self._conclude(run, checked.works, metrics, training_id)
            record = replace(record, state="done", result=result)
        except TrainingCancelled as error:
            why = self._reasons.get(training_id, str(error))
            record = replace(record, state="cancelled", error=why)
        except VizError as error:
            record = replace(record, state="failed", error=str(error))
            _log.warning("training failed", training=training_id, code=error.code)
        except Exception as error:  # noqa: BLE001  a bug in one run must not end the node
            record = replace(record, state="failed", error="unexpected: see the node's log")
            _log.error("training failed", training=training_id, exc_info=error)
        await self._put_end(record)
        if record.state == "done":
            self.done.set()
        return record

    async def _put_end(self, record: TrainingRecord) -> None:
        """Store how a run ended; if the ledger refuses, try a few times, then go on.

        Otherwise a ledger that refuses would block the next runs in the queue.
        """
        for left in reversed(range(_END_ATTEMPTS)):
            try:
                return await self._put(record)
            except StoreError as error:
                _log.error(
                    "the end of a run is not stored; it goes on from its checkpoint at a restart",
                    training=record.training_id,
                    state=record.state,
                    reason=error.detail,
                )
                if left:
                    await asyncio.sleep(self._retry_s)
        return None

    async def _follow(
        self, run: TrainingRun, training_id: str, cuda_index: int | None
    ) -> dict[str, Any]:
        runner = TrainingProcess(run, self._directory / training_id, cuda_index=cuda_index)
        self._runners[training_id] = runner
        metrics: dict[str, Any] = {}
        try:
            async with contextlib.aclosing(runner.events()) as events:
                async for event in events:
                    metrics = event.values.get("metrics", metrics)
                    await self._tell(training_id, event)
        finally:
            del self._runners[training_id]
        return metrics

    async def _conclude(
        self, run: TrainingRun, works: Sequence[Work], metrics: dict[str, Any], training_id: str
    ) -> dict[str, Any]:
        require_memorisation_limit(run.settings, metrics)
        manifest = manifest_of(run, works, metrics, self._trainer, self._clock.now_s())
        envelope = await self._seal(manifest)
        path = self._directory / training_id / MANIFEST_FILE
        await asyncio.to_thread(path.write_bytes, envelope)
        return result_of(path, envelope, manifest, metrics)

    async def _tell(self, training_id: str, event: TrainingEvent) -> None:
        values = {k: v for k, v in event.values.items() if k != "metrics"}
        await self._progress.tell(training_id, {"event": event.kind, **values})

    async def _put(self, record: TrainingRecord) -> None:
        progress = self._progress.last(record.training_id)
        await self._ledger.put_training(
            replace(record, progress=progress, updated_at=self._clock.now_s())
        )
        await self._progress.wake()

    def _enqueue(self, training_id: str) -> None:
        if training_id not in self._waiting:
            self._waiting.add(training_id)
            self._queue.put_nowait(training_id)

    async def _tidy(self) -> None:
        try:
            records = await self._ledger.trainings()
        except StoreError as error:
            _log.warning("runs' folders are not tidied", reason=error.detail)
            return
        await asyncio.to_thread(tidy, self._directory, records)
