"""What a run will cost in time, before it runs: the dry run.

Owns a linear model of a step, fitted to the figures of docs/training-log.md. Does not know the
tokenizer (it counts words) or money. An estimate, printed as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from viz.domain.work import Work
from viz.training.dataset import build_dataset
from viz.training.run import Settings

# Two cores, float32, a base of 135 million parameters (docs/training-log.md).
_SECONDS_A_TOKEN: Final = 6e-3
_REFERENCE_THREADS: Final = 2
_START_S: Final = 25.0
_TOKENS_A_WORD: Final = 1.45
_TEMPLATE_TOKENS: Final = 8
_SHARED_TOKENS: Final = 26


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rows and steps are exact, tokens and seconds are not."""

    rows: int
    held_out_rows: int
    steps: int
    tokens_a_step: int
    seconds: int


def estimate(works: Sequence[Work], settings: Settings) -> Estimate:
    """Return what training on ``works`` takes. Raises InvalidWork."""
    dataset = build_dataset(works, seed=settings.seed, held_out_share=settings.held_out_share)
    words = sum(len(m.content.split()) for row in dataset.training for m in row.messages)
    turns = sum(len(row.messages) for row in dataset.training)
    mean = (words * _TOKENS_A_WORD + turns * _TEMPLATE_TOKENS) / len(dataset.training)
    rows = min(settings.rows_per_step, len(dataset.training)) * settings.accumulation
    tokens = round(mean * rows) + _SHARED_TOKENS * settings.accumulation
    rate = _SECONDS_A_TOKEN * _REFERENCE_THREADS / min(settings.threads, 16)
    return Estimate(
        rows=len(dataset.training),
        held_out_rows=len(dataset.held_out),
        steps=settings.steps,
        tokens_a_step=tokens,
        seconds=round(_START_S + settings.steps * tokens * rate),
    )
