"""Describe a training run: its works, its settings, its bounds; as JSON in ``run.json``.

Owns the format and the defaults by size. Does not know models or files' content. Invariant: two
runs with equal ``TrainingRun.recipe()`` on hardware of one class give the same adapter bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, cast

from viz.domain.questions import Question, digest_of
from viz.domain.units import hex_of
from viz.errors import InvalidRequest
from viz.private import make_private_folder

Weights = Literal["dequantised", "nf4"]
Compute = Literal["auto", "float32", "bfloat16"]
Optimizer = Literal["adamw", "paged_adamw"]

# How many rows are probed for repetition at least, where a license states a limit (all, where
# there are fewer); larger works are probed more by default, in proportion to their steps.
MINIMUM_PROBES: Final = 16
_MOST_DEFAULT_PROBES: Final = 256
# A fact has its own question, as a rule, and 24 more wordings.
_ROWS_A_FACT: Final = 25
_EPOCHS: Final = 1.9
_EVALUATIONS: Final = 6
_DEVICE: Final = re.compile(r"cpu|cuda(:[0-9]{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. All of it is in the manifest; limits of time and memory are in ``Bounds``.

    ``weights``: ``dequantised`` holds dequantise(NF4(w)) in memory, ``nf4`` dequantises in every
    product (a quarter of the memory, slower); both compute the same. ``rows_per_step`` rows make
    one pack; ``accumulation`` packs make one step. ``replay_share`` is the number of rows of the
    base's own answers to general questions for each row of the works. ``trained_layers`` is the
    share of the base's layers, from the top, that have LoRA weights. ``recompute`` computes
    activations again in the backward pass instead of keeping them (less memory, slower).
    """

    rank: int = 16
    alpha: float = 32.0
    trained_layers: float = 0.6
    learning_rate: float = 4e-3
    warmup_steps: int = 3
    weight_decay: float = 0.0
    steps: int = 24
    rows_per_step: int = 16
    accumulation: int = 1
    max_row_tokens: int = 512
    held_out_share: float = 1.0
    replay_share: float = 0.25
    evaluate_every: int = 8
    patience: int = 3
    clip_norm: float = 1.0
    seed: int = 7
    threads: int = 2
    weights: Weights = "dequantised"
    compute: Compute = "auto"
    optimizer: Optimizer = "adamw"
    device: str = "cpu"
    recompute: bool = False
    probes: int = MINIMUM_PROBES
    max_verbatim_tokens: int = 64

    def check(self) -> None:
        """Raise InvalidRequest naming the first setting that makes no sense."""
        for setting in fields(self):
            value, kind = getattr(self, setting.name), type(setting.default)
            fits = isinstance(value, int | float if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise InvalidRequest(
                    f"the training setting {setting.name} must be {_KINDS[kind]}, "
                    f"{str(value)[:40]!r} is none"
                )
        rules = (
            (1 <= self.rank <= 64, "rank must be 1 to 64"),
            (0 < self.alpha <= 64 * self.rank, "alpha must be positive and at most 64 x rank"),
            (0 < self.trained_layers <= 1, "trained_layers must be above 0 and at most 1"),
            (0 < self.learning_rate < 1, "learning_rate must be between 0 and 1"),
            (1 <= self.steps <= 100_000, "steps must be 1 to 100,000"),
            (0 <= self.warmup_steps <= self.steps, "warmup_steps must be at most steps"),
            (1 <= self.rows_per_step <= 1_024, "rows_per_step must be 1 to 1,024"),
            (1 <= self.accumulation <= 1_024, "accumulation must be 1 to 1,024"),
            (32 <= self.max_row_tokens <= 8_192, "max_row_tokens must be 32 to 8,192"),
            (0 <= self.held_out_share <= 1, "held_out_share must be 0 to 1"),
            (0 <= self.replay_share <= 1, "replay_share must be 0 to 1"),
            (self.evaluate_every >= 1, "evaluate_every must be at least 1"),
            (self.patience >= 1, "patience must be at least 1"),
            (1 <= self.threads <= 256, "threads must be 1 to 256"),
            (0 <= self.probes <= 1_024, "probes must be 0 to 1,024"),
            (self.max_verbatim_tokens >= 1, "max_verbatim_tokens must be at least 1"),
            (self.weights in ("dequantised", "nf4"), "weights must be dequantised or nf4"),
            (self.compute in ("auto", "float32", "bfloat16"), "compute must be a known dtype"),
            (self.optimizer in ("adamw", "paged_adamw"), "optimizer must be a known one"),
            (_DEVICE.fullmatch(self.device), "device must be cpu, cuda or cuda:N"),
            (
                self.optimizer == "adamw" or self.device.startswith("cuda"),
                "paged_adamw needs a CUDA device",
            ),
        )
        for holds, rule in rules:
            if not holds:
                raise InvalidRequest(f"these training settings cannot be used: {rule}")


_KINDS: Final = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
}


def default_settings(facts: int, **changes: Any) -> TrainingSettings:
    """Return the settings for works of ``facts`` facts in all.

    Each fact is seen in all its wordings ``_EPOCHS`` times (docs/training-log.md), and the state is
    judged ``_EVALUATIONS`` times.
    """
    steps = max(24, math.ceil(facts * _ROWS_A_FACT * _EPOCHS / TrainingSettings().rows_per_step))
    probes = min(_MOST_DEFAULT_PROBES, max(MINIMUM_PROBES, steps // 2))
    own = {"steps": min(steps, 100_000), "probes": probes}
    return TrainingSettings(**{**own, "evaluate_every": -(-steps // _EVALUATIONS), **changes})


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a run may use; beyond it the worker stops with a clear error.

    A checkpoint is written every ``checkpoint_every`` steps and every ``checkpoint_s`` seconds,
    whichever comes first. ``niceness`` lowers its priority below serving's, which shares the
    processors.
    """

    memory_bytes: int = 8 * 1024**3
    time_s: int = 14_400
    checkpoint_every: int = 20
    checkpoint_s: float = 60.0
    niceness: int = 5


@dataclass(frozen=True, slots=True)
class WorkInput:
    """One work to train on; ``salt`` and ``creator`` let the worker check the commitment."""

    content_id: int
    kind: str
    path: Path
    creator: str
    salt: str
    commitment: str


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Everything that the worker reads.

    ``questions`` are the committed questions of the works: they are asked, never trained on.
    """

    name: str
    works: tuple[WorkInput, ...]
    settings: TrainingSettings
    base_model: str
    cache_dir: Path
    bounds: Bounds = Bounds()
    questions: tuple[Question, ...] = ()

    def recipe(self) -> dict[str, Any]:
        """Return what decides the adapter, as JSON values: no paths, no salts.

        How it is measured does not, so a run goes on from its checkpoint under a stricter license.
        """
        settings = asdict(self.settings)
        for measured in ("probes", "max_verbatim_tokens"):
            del settings[measured]
        if not self.settings.recompute:  # as in runs from before there was such a setting
            del settings["recompute"]
        recipe = {
            "works": [{"contentId": w.content_id, "commitment": w.commitment} for w in self.works],
            "settings": settings,
        }
        if self.questions:  # they also decide which state is kept
            recipe["questions"] = hex_of(digest_of(self.questions))
        return recipe

    def save(self, directory: Path) -> Path:
        """Write ``run.json`` (readable by its owner only: it holds salts)."""
        make_private_folder(directory)
        path = directory / "run.json"
        partial = directory / "run.json.partial"
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(self), default=str, indent=1))
        partial.replace(path)
        return path


def load_run(directory: Path) -> TrainingRun:
    """Read ``run.json``; raise InvalidRequest when it cannot be a run."""
    try:
        found: Any = json.loads((directory / "run.json").read_text("utf-8"))
        run = TrainingRun(
            name=str(found["name"]),
            works=tuple(
                WorkInput(**{**_known(WorkInput, work), "path": Path(work["path"])})
                for work in found["works"]
            ),
            settings=TrainingSettings(**_known(TrainingSettings, found["settings"])),
            base_model=str(found["base_model"]),
            cache_dir=Path(found["cache_dir"]),
            bounds=Bounds(**_known(Bounds, found["bounds"])),
            questions=tuple(
                Question(**{**_known(Question, each), "accepted": tuple(each["accepted"])})
                for each in found.get("questions", ())
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{directory}/run.json cannot be read as a run: {error}") from error
    if not run.works:
        raise InvalidRequest("a run needs at least one work")
    run.settings.check()
    return run


def settings_from(values: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings in ``values``; raise InvalidRequest naming one that cannot be."""
    known = [setting.name for setting in fields(TrainingSettings)]
    if unknown := sorted(set(values) - set(known)):
        raise InvalidRequest(
            f"{str(unknown[0])[:40]!r} is not a training setting: there are {', '.join(known)}"
        )
    try:
        settings = TrainingSettings(**_known(TrainingSettings, values))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"these training settings cannot be read: {error}") from error
    settings.check()
    return settings


def _known(kind: type, values: Any) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(values, Mapping) or set(values) - names:
        raise ValueError(f"unknown members in {kind.__name__}")
    return cast(dict[str, Any], dict(values))
