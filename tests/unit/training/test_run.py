"""Runs as JSON, their settings, and the lazy import of the model stack."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viz.domain.ports.engine import BaseModel
from viz.domain.questions import Question
from viz.domain.units import ZERO_HASH
from viz.domain.work import parse_work
from viz.errors import InvalidRequest
from viz.training.estimate import estimate
from viz.training.pace import REFERENCE_SECONDS_A_PRODUCT, Pace, pace_of
from viz.training.run import (
    TrainingRun,
    TrainingSettings,
    WorkInput,
    default_settings,
    load_run,
    settings_from,
)

RUN = TrainingRun(
    name="a",
    works=(WorkInput(1, "text", Path("w.txt"), "0x" + "aa" * 20, "0x" + "01" * 32, "0x00"),),
    settings=TrainingSettings(),
    base_model="tiny",
    cache_dir=Path("cache"),
)


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    """What the parent wrote is what the worker reads, and only the owner can read the salts."""
    asked = replace(RUN, questions=(Question("1", "Who?", ("Ann", "Anna")),))
    asked.save(tmp_path)
    assert load_run(tmp_path) == asked
    path = RUN.save(tmp_path)
    assert load_run(tmp_path) == RUN
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.pop("settings"),
        lambda run: run.update(works=[]),
        lambda run: run["settings"].update(unknown=1),
        lambda run: run["settings"].update(rank=0),
        lambda run: run["settings"].update(optimizer="paged_adamw"),
        lambda run: run["works"][0].pop("salt"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path: Path, change: object) -> None:
    """The worker names what is wrong instead of training something else."""
    path = RUN.save(tmp_path)
    found = json.loads(path.read_text())
    change(found)  # type: ignore[operator]
    path.write_text(json.dumps(found))
    with pytest.raises(InvalidRequest):
        load_run(tmp_path)


def test_the_recipe_holds_no_path_and_no_salt() -> None:
    """The recipe can be published: two machines with other paths have the same one.

    Nor does it hold how the adapter is measured: a run goes on when a license's limit is found.
    """
    elsewhere = replace(RUN.works[0], path=Path("/else"), salt="0x" + "02" * 32)
    measured = replace(RUN.settings, probes=99, max_verbatim_tokens=9)
    moved = replace(RUN, works=(elsewhere,), settings=measured)
    assert moved.recipe() == RUN.recipe()
    assert RUN.works[0].salt not in json.dumps(RUN.recipe())


def test_committed_questions_decide_the_adapter() -> None:
    """They choose the state, so a checkpoint under other questions is not taken up."""
    one, other = (replace(RUN, questions=(Question("1", ask, ("Ann",)),)) for ask in ("A?", "B?"))
    assert "questions" not in RUN.recipe()
    assert one.recipe()["questions"] != other.recipe()["questions"]


def test_larger_works_get_more_steps_and_cost_more_time() -> None:
    """Defaults and the dry run grow with the work."""
    small, large = default_settings(40), default_settings(4_000)
    assert small.steps < large.steps
    work = parse_work("text", b"# T\n\nOne two three four five six. Seven eight nine.")
    one = estimate([work], replace(small, steps=10))
    two = estimate([work], replace(small, steps=1_000))
    assert one.rows == two.rows > 0
    assert one.seconds < two.seconds


def test_an_estimate_counts_products_and_takes_the_machines_pace() -> None:
    """A slower machine, a larger base and more steps cost in proportion to their products."""
    work = parse_work("text", b"# T\n\nOne two three four five six. Seven eight nine.")
    settings = replace(default_settings(40), evaluate_every=10_000)

    def seconds(steps: int = 1_000, **of: Any) -> int:
        return estimate([work], replace(settings, steps=steps), 0, Pace(**of)).seconds

    here = seconds()
    assert seconds(seconds_a_product=10 * REFERENCE_SECONDS_A_PRODUCT) == pytest.approx(
        10 * here, rel=0.01
    )
    a_step = (seconds(3_000) - here) / 2_000
    larger = {"layer_weights": 3 * Pace().layer_weights, "head_weights": 3 * Pace().head_weights}
    assert (seconds(3_000, **larger) - seconds(**larger)) / 2_000 == pytest.approx(
        3 * a_step, rel=0.02
    )
    fewer = estimate([work], replace(settings, trained_layers=0.2, steps=1_000))
    assert fewer.seconds < here
    asked = estimate([work], replace(settings, steps=1_000), 48)
    assert asked.seconds > here


def test_the_pace_is_that_of_this_base_and_of_so_many_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of the base counts; what is not is the reference's, so an estimate is made."""
    base = BaseModel("b", ZERO_HASH, ZERO_HASH, 64, 100, 8, layer_weights=7, head_weights=5)
    found = pace_of(base, 1)
    assert (found.layer_weights, found.head_weights) == (7, 5)
    assert found.seconds_a_product > 0
    monkeypatch.setitem(sys.modules, "torch", None)  # a node without the model stack
    assert pace_of(None, 1) == Pace()
    assert pace_of(base, 1) == Pace(REFERENCE_SECONDS_A_PRODUCT, 7, 5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": "abc"}, "steps must be a whole number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"alpha": "x"}, "alpha must be a number"),
        ({"device": 3}, "device must be a word"),
        ({"device": "meta"}, "device must be cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device must be cpu, cuda or cuda:N"),
        ({"learning_rate": float("nan")}, "learning_rate must be between"),
        ({"stepps": 3}, "'stepps' is not a training setting: there are rank"),
    ],
)
def test_a_setting_of_a_wrong_kind_or_name_is_named(values: dict[str, Any], says: str) -> None:
    """A typing error is answered with the setting at fault, never as a fault of the node."""
    with pytest.raises(InvalidRequest, match=says):
        settings_from(values)


def test_settings_of_a_manifest_must_be_known() -> None:
    """An audit does not guess what an unknown setting meant."""
    with pytest.raises(InvalidRequest):
        settings_from({"rank": 8, "magic": True})


def test_importing_training_loads_no_torch() -> None:
    """The core install, and every command that does not train, stays light."""
    modules = "viz.training, viz.training.run, viz.training.process, viz.training.estimate"
    code = (
        f"import sys, {modules}, viz.training.dataset, viz.training.environment; "
        "sys.exit(bool({'torch', 'transformers', 'peft', 'bitsandbytes'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": "node"}, timeout=60, check=False
    )
    assert done.returncode == 0
