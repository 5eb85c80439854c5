"""Clean up the folder of a training run that has ended.

A run that is done keeps its weights, its manifest, its measurements, its log, and the rows that the
manifest names by their hash. Its checkpoint is removed, and its inputs too, because ``run.json``
has the works' salts. A run that failed or was cancelled keeps only its log and measurements, and
only the newest ``KEPT_LOGS`` such runs keep these. Folders of runs that have not ended, or are not
in the ledger, are not touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from viz.domain.ports.ledger import TrainingRecord

KEPT_LOGS: Final = 20
_OF_DONE: Final = frozenset(
    {"adapter.safetensors", "manifest.json", "metrics.json", "dataset.jsonl", "worker.log"}
)
_OF_OTHERS: Final = frozenset({"metrics.json", "worker.log"})
_log = structlog.get_logger()


def tidy(directory: Path, records: Iterable[TrainingRecord]) -> None:
    """Remove what ended runs no longer need; log and leave what cannot be removed."""
    lost: list[TrainingRecord] = []
    for record in records:
        if record.state == "done":
            _keep(directory / record.training_id, _OF_DONE)
        elif record.state in ("failed", "cancelled"):
            lost.append(record)
    lost.sort(key=lambda record: record.updated_at, reverse=True)
    for place, record in enumerate(lost):
        _keep(directory / record.training_id, _OF_OTHERS if place < KEPT_LOGS else frozenset())


def _keep(folder: Path, names: frozenset[str]) -> None:
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not names and folder.is_dir():
            folder.rmdir()
    except OSError as error:
        _log.warning("a run's folder is not tidied", folder=folder.name, reason=str(error))
