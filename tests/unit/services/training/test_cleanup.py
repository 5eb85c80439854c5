"""What stays on the disk of runs that ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from viz.domain.ports.ledger import TrainingRecord
from viz.services.training import cleanup
from viz.services.training.cleanup import tidy

FILES = ("adapter.safetensors", "manifest.json", "metrics.json", "dataset.jsonl", "worker.log")


def test_an_ended_run_keeps_what_its_manifest_names_and_a_lost_one_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the disk, the works' salts, and whoever must publish or audit what is done."""
    monkeypatch.setattr(cleanup, "KEPT_LOGS", 1)
    records = [
        TrainingRecord("good", "done", {}, updated_at=1),
        TrainingRecord("early", "failed", {}, updated_at=2),
        TrainingRecord("late", "cancelled", {}, updated_at=3),
        TrainingRecord("busy", "running", {}, updated_at=4),
    ]
    for name in ("good", "early", "late", "busy", "unknown"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        for file in (*FILES, "run.json", "checkpoint/state.safetensors"):
            (tmp_path / name / file).write_text("x")
    for _ in range(2):
        tidy(tmp_path, records)
        assert _names(tmp_path / "good") == set(FILES)
        assert _names(tmp_path / "late") == {"metrics.json", "worker.log"}
        assert not (tmp_path / "early").exists()
        assert _names(tmp_path / "busy") == _names(tmp_path / "unknown") > set(FILES)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
