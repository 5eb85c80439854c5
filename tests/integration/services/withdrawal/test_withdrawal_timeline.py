"""The whole of a withdrawal on a real chain, node, training and store, and the disk after it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from examples.withdrawal.timeline import tell
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.source import load_base
from viz.domain.units import hex_of
from viz.settings.engine_config import EngineConfig
from viz.training.run import TrainingSettings

SETTINGS = TrainingSettings(
    rank=4,
    alpha=8.0,
    steps=2,
    rows_per_step=2,
    evaluate_every=2,
    max_row_tokens=512,
    probes=2,
    warmup_steps=0,
)
NAMES = (
    "rank",
    "alpha",
    "steps",
    "rows_per_step",
    "evaluate_every",
    "max_row_tokens",
    "probes",
    "warmup_steps",
)


# Three trainings in processes of their own, whose measurements a busy machine slows most.
@pytest.mark.timeout(900)
async def test_from_the_withdrawal_to_a_disk_without_the_work(tmp_path: Path) -> None:
    """No new grant; the running training stops; enforced, unloaded, 451, blob denied, words, salts
    and weights gone from every file, certified; a class 1 work stays; deposits go back."""
    base = make_tiny_directory(tmp_path / "tiny")
    engine = EngineConfig(
        base_model=str(base),
        base_digest=hex_of(load_base(base, cache_dir=tmp_path / "models").digest),
        context_tokens=512,
        max_streams=2,
        max_memory_mib=2_000,
        compute="float32",
        compile=False,
    )
    asked = {name: value for name, value in asdict(SETTINGS).items() if name in NAMES}
    told = await tell(tmp_path / "story", engine, asked, print)
    kept_in = {name.split("/")[1] for name in told.found_before if name.startswith("node/")}
    found = {"trainings", "adapters"} <= kept_in  # the blob is sealed
    assert found, "the search finds what is there: else an empty answer would prove nothing"
    assert told.found_after == []
    certificate, *others = told.certificates
    assert not others, "one certificate for one end"
    assert {item.kind for item in certificate.destroyed} == {
        "blob", "copy of the work", "key of the sealed weights", "record with the work's salt",
        "training run", "weights",
    }  # fmt: skip
    assert not certificate.left
    assert certificate.certificate.withdrawn_at_s < certificate.certificate.due_at_s
    ended = [each for each in told.answers if each.get("code") == "adapter-ended"]
    assert len(ended) == 2 and ended[0]["contentId"] == 1 and ended[0]["reason"] == "work-withdrawn"
    assert ended[0]["successor"] == "viz-adapter-2", "who asks is told what follows"
    assert "operator/bakery/work.jsonl" in told.kept_of_bruno
