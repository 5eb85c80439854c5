"""Find and destroy what a node's trainings keep of a work: rows, weights, words, copies, salts.

Implements ``WorkHolder`` (viz.domain.ports.holdings). A run's folder has the work's training rows
and the weights; its record in the ledger has questions of the work, and may have its salt. A run
that used several works is destroyed as a whole, since its weights were trained on all of them. The
work's own files are destroyed if they are below the node's data folder; files elsewhere belong to
the operator and are destroyed only if the settings say so. The signed manifest stays: it has no
text of the work, and proves what was licensed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.ports.ledger import ErasableTrainings, TrainingRecord
from viz.domain.questions import QUESTIONS_FILE
from viz.domain.units import Cid, ContentId, parse_hash
from viz.errors import InvalidRequest, VizError
from viz.services.withdrawal.adapter_holdings import AdapterHoldings
from viz.services.work_records import load_record, record_path

RUN: Final = "training run"
COPY: Final = "copy of the work"
SALT: Final = "record with the work's salt"
_STAYS: Final = "manifest.json"
# What a destroyed run's record keeps: what was trained, and what it was published as.
_TOLD: Final = ("manifestHash", "weightsDigest", "baseModel", "shares", "adapterId", "cid")
# In a destroyed run's record while its texts may be in the ledger's log.
_IN_LOG: Final = "textsInLog"


def works_of(record: TrainingRecord) -> frozenset[ContentId]:
    """Return the works of a run, from its record and the files that it names. Blocks."""
    shares = record.result.get("shares")
    if isinstance(shares, Sequence) and not isinstance(shares, str):
        return frozenset(ContentId(int(row[0])) for row in shares)
    return frozenset(content_id for content_id, _ in run_works(record))


def run_works(record: TrainingRecord) -> Iterator[tuple[ContentId, Mapping[str, Any]]]:
    """Yield the works of a run whose id is known, with their part of the request. Blocks."""
    for work in _works(record):
        if (content_id := _content_id(work)) is not None:
            yield content_id, {**work, "contentId": int(content_id)}


class TrainingHoldings:
    """What the training runs of one node store of works."""

    def __init__(
        self,
        ledger: ErasableTrainings,
        adapters: AdapterHoldings,
        directory: Path,
        data_dir: Path,
    ) -> None:
        """``directory`` has a folder for each run; ``data_dir`` is the node's data folder."""
        self._ledger, self._adapters = ledger, adapters
        self._directory, self._data_dir = directory, data_dir

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        """Return the runs that used the work, their weights, and the files that they named."""
        records = await self._ledger.trainings()
        used = await asyncio.to_thread(lambda: [r for r in records if self._concerns(r, ended)])
        pairs = [pair for record in used for pair in _published(record)]
        found = await self._adapters.of_weights(pairs)
        items, left = set(found.items), set(found.left)
        for record in used:
            item = HeldItem(RUN, record.training_id)
            if not record.ended:
                left.add(LeftItem(item.kind, item.name, "the run has not ended yet"))
            elif await asyncio.to_thread(self._is_held, record, ended.content_id):
                items.add(item)
        if ended.own:
            for item in await asyncio.to_thread(lambda: set(self._files(used, ended.content_id))):
                if self._may_go(Path(item.name), ended):
                    items.add(item)
                else:
                    left.add(LeftItem(item.kind, item.name, _OPERATORS))
        return WorkHoldings(tuple(sorted(items)), tuple(sorted(left)))

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Destroy the runs, then the files that they named.

        A run's record then has the works' ids in it, so that the next process, after a kill in
        between, still finds the files without the registration records beside them. It counts as
        destroyed only when its texts are out of the ledger's files too.
        """
        runs = [item.name for item in items if item.kind == RUN]
        for training_id in runs:
            record = await self._ledger.training(training_id)
            if record is not None:
                await self._ledger.put_training(_told(record, ended.content_id))
            await asyncio.to_thread(_empty, self._directory / training_id)
        for item in items:
            if item.kind in (COPY, SALT) and self._may_go(Path(item.name), ended):
                await asyncio.to_thread(Path(item.name).unlink, missing_ok=True)
        if runs:
            await self._ledger.leave_no_trace()
        for training_id in runs:
            record = await self._ledger.training(training_id)
            if record is not None:
                result = {k: v for k, v in record.result.items() if k != _IN_LOG}
                await self._ledger.put_training(replace(record, result=result))

    def _concerns(self, record: TrainingRecord, ended: EndedUse) -> bool:
        published = record.result.get("adapterId") in ended.adapters
        return published or (ended.own and ended.content_id in works_of(record))

    def _is_held(self, record: TrainingRecord, content_id: ContentId) -> bool:
        """Return whether a run has anything to destroy, or its record this work's salt. Blocks."""
        salted = (work for work in _works(record) if "salt" in work)
        if any(_content_id(work) == content_id for work in salted):
            return True
        folder = self._directory / record.training_id
        kept = any(path.name != _STAYS for path in folder.iterdir()) if folder.is_dir() else False
        return kept or not record.result.get("destroyed") or _IN_LOG in record.result

    def _files(
        self, records: Iterable[TrainingRecord], content_id: ContentId
    ) -> Iterator[HeldItem]:
        for record in records:
            for named, work in run_works(record):
                if named != content_id:
                    continue
                path = Path(str(work.get("path"))).absolute()
                for copy in (path, path.with_name(QUESTIONS_FILE)):
                    if copy.is_file():
                        yield HeldItem(COPY, str(copy))
                # Beside the present record lie those of earlier terms (viz.creator.owner).
                earlier = path.parent.glob(f"{_escaped(path.name)}.*.registration.json")
                for salted in (record_path(path), *earlier):
                    if salted.is_file():
                        yield HeldItem(SALT, str(salted))

    def _may_go(self, path: Path, ended: EndedUse) -> bool:
        return ended.named_files or path.resolve().is_relative_to(self._data_dir.resolve())


_OPERATORS: Final = (
    "it is the operator's file outside the node's data folder: destroy it, or set "
    "withdrawal.destroy_named_files"
)


def _works(record: TrainingRecord) -> Iterator[Mapping[str, Any]]:
    works = record.request.get("works")
    for work in works if isinstance(works, Sequence) and not isinstance(works, str) else ():
        if isinstance(work, Mapping):
            yield work


def _content_id(work: Mapping[str, Any]) -> ContentId | None:
    named = work.get("contentId")
    if type(named) is int:
        return ContentId(named)
    try:
        found = load_record(Path(str(work.get("path"))))
    except (VizError, OSError):
        return None
    return found.content_id if found is not None else None


def _published(record: TrainingRecord) -> Iterator[tuple[Any, Cid | None]]:
    try:
        digest = parse_hash(str(record.result["weightsDigest"]))
    except (KeyError, InvalidRequest):
        return
    cid = record.result.get("cid")
    yield digest, Cid(cid) if isinstance(cid, str) else None


def _told(record: TrainingRecord, content_id: ContentId) -> TrainingRecord:
    """Return the record of a destroyed run, without texts of works and without this work's salt."""
    works = []
    for work in _works(record):
        named = _content_id(work)
        kept = {k: v for k, v in work.items() if k != "salt" or named != content_id}
        works.append(kept | ({"contentId": int(named)} if named is not None else {}))
    result = {name: record.result[name] for name in _TOLD if name in record.result}
    return replace(
        record,
        request={**record.request, "works": works},
        progress={},
        result={**result, "destroyed": int(content_id), _IN_LOG: True},
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != _STAYS:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)
