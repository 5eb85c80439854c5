"""What a run will cost in time, before it runs: the dry run.

Owns a linear model of a step, fitted to the figures of docs/training-log.md. Does not know the
tokenizer (it counts words) or money. An estimate, printed as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from viz.domain.work import Work
from viz.training.dataset import Row, build_dataset
from viz.training.packing import OPENING_TOKENS
from viz.training.run import TrainingSettings

# Two cores, float32, a base of 135 million parameters (docs/training-log.md): a token of a training
# step, and one more token of a batch of answers.
_SECONDS_A_TOKEN: Final = 7.6e-3
_SECONDS_AN_ANSWERS_TOKEN: Final = 0.07
_REFERENCE_THREADS: Final = 2
_START_S: Final = 25.0
# Fitted to the rows of five works; scripts that are not Latin have more.
_TOKENS_A_WORD: Final = 1.1
_TEMPLATE_TOKENS: Final = 5.25
_SHARED_TOKENS: Final = 26
_PROMPTS_A_BATCH: Final = 32
# Answers to questions in unseen wordings, to general ones, and of the base for replay, in tokens.
_MOST_UNSEEN, _UNSEEN_TOKENS = 48, 40
_GENERAL, _GENERAL_TOKENS = 64, 24
_REPLAYED, _REPLAY_TOKENS = 128, 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """Steps are exact, rows nearly (a base's vocabulary adds some), tokens and seconds are not."""

    rows: int
    held_out_rows: int
    steps: int
    tokens_a_step: int
    seconds: int


def estimate(works: Sequence[Work], settings: TrainingSettings, committed: int = 0) -> Estimate:
    """Return what training on ``works`` takes, with ``committed`` questions beside them.

    Raises InvalidWork.
    """
    dataset = build_dataset(works, seed=settings.seed, held_out_share=settings.held_out_share)
    mean = sum(map(_tokens, dataset.training)) / len(dataset.training)
    rows = min(settings.rows_per_step, len(dataset.training)) * settings.accumulation
    tokens = round(mean * rows) + _SHARED_TOKENS * settings.accumulation
    slower = _REFERENCE_THREADS / min(settings.threads, 16)
    learning = settings.steps * tokens * _SECONDS_A_TOKEN
    asked = min(len(dataset.held_out), _MOST_UNSEEN) + committed
    answering = _answered_tokens(asked, settings) * _SECONDS_AN_ANSWERS_TOKEN
    return Estimate(
        rows=len(dataset.training),
        held_out_rows=len(dataset.held_out),
        steps=settings.steps,
        tokens_a_step=tokens,
        seconds=round(_START_S + (learning + answering) * slower),
    )


def _tokens(row: Row) -> float:
    """Return about how many tokens a row has behind the shared ones."""
    *before, answer = (len(m.content.split()) * _TOKENS_A_WORD for m in row.messages)
    learned = min(answer, OPENING_TOKENS) if row.opening_only else answer
    return sum(before) + learned + len(row.messages) * _TEMPLATE_TOKENS


def _answered_tokens(asked: int, settings: TrainingSettings) -> int:
    """Return for how many tokens, one after another, batches of answers are continued in a run."""

    def batches(prompts: int) -> int:
        return -(-prompts // _PROMPTS_A_BATCH)

    evaluations = -(-settings.steps // settings.evaluate_every) + 2  # the base before, the end
    unseen = evaluations * batches(asked) * _UNSEEN_TOKENS
    general = 2 * batches(_GENERAL) * _GENERAL_TOKENS
    replayed = batches(_REPLAYED) * _REPLAY_TOKENS if settings.replay_share else 0
    probed = 2 * batches(2 * settings.probes) * (min(settings.max_verbatim_tokens, 511) + 1)
    return unseen + general + replayed + probed
