"""The tiny base and a small run on it: the real worker in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.source import LoadedBase, load_base
from viz.domain.units import hex_of, parse_address
from viz.domain.work import parse_work
from viz.training.run import Bounds, TrainingRun, TrainingSettings, WorkInput

CREATOR = parse_address("0x00000000000000000000000000000000000000aa")
SALT = bytes([7] * 32)
SETTINGS = TrainingSettings(
    rank=4,
    alpha=8.0,
    trained_layers=1.0,
    learning_rate=1e-2,
    steps=8,
    rows_per_step=4,
    evaluate_every=4,
    max_row_tokens=512,
    held_out_share=0.2,
    probes=3,
    threads=1,
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    """The tiny base under the product's own quantisation policy, made once."""
    root = tmp_path_factory.mktemp("tiny")
    base = load_base(make_tiny_directory(root / "tiny"), cache_dir=root / "cache")
    assert base.policy.quantises("model.layers.0.mlp.up_proj")
    return base


@pytest.fixture
def make_run(tiny: LoadedBase, tmp_path: Path) -> Any:
    """Return a maker of small runs on the example dialogue's first lines."""
    path = tmp_path / "work.jsonl"
    lines = Path("examples/works/varn-point/work.jsonl").read_text().splitlines()[:10]
    path.write_text("\n".join(lines))
    commitment = parse_work("dialogue", path.read_bytes()).commitment(CREATOR, SALT)

    def make(**changes: Any) -> TrainingRun:
        bounds = Bounds(
            memory_bytes=changes.pop("memory_bytes", 8 * 1024**3),
            time_s=changes.pop("time_s", 3_600),
            checkpoint_every=changes.pop("checkpoint_every", 2),
            checkpoint_s=changes.pop("checkpoint_s", 60.0),
            niceness=0,
        )
        work = WorkInput(1, "dialogue", path, CREATOR, hex_of(SALT), hex_of(commitment))
        return TrainingRun(
            name="small",
            works=(work,),
            settings=replace(SETTINGS, **changes),
            base_model=str(tiny.directory),
            cache_dir=tmp_path / "cache",
            bounds=bounds,
        )

    return make
