"""Estimate the time of a run before it runs: the dry run.

Owns a linear model of a run: how many products of matrices it takes, and how many seconds one takes
on this machine now (``viz.training.pace``). The rest of a run (attention, Python, AdamW) is told as
a factor, fitted to the figures of docs/training-log.md. Does not know the tokenizer (it counts
words) or money. An estimate, printed as one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from viz.domain.work import Work
from viz.training.dataset import Row, build_dataset
from viz.training.memory import PackSize
from viz.training.pace import Pace
from viz.training.packing import OPENING_TOKENS
from viz.training.run import TrainingSettings

# How many times the products alone a step takes, and a token of an answer in a batch.
_STEP_FACTOR: Final = 1.7
_ANSWER_FACTOR: Final = 4.3
# Imports, the base, PEFT: as many products as would take that long.
_START_PRODUCTS: Final = 1.0e12
# Fitted to the rows of five works; scripts that are not Latin have more.
_TOKENS_A_WORD: Final = 1.1
_TEMPLATE_TOKENS: Final = 5.25
_SHARED_TOKENS: Final = 26
# Answers to questions in unseen wordings, to general ones, and of the base for replay, in tokens.
_MOST_UNSEEN, _MOST_UNSEEN_TOKENS = 48, 64
_GENERAL, _GENERAL_TOKENS = 64, 24
_REPLAYED, _REPLAY_TOKENS = 128, 16
_SPREAD: Final = 2.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Steps are exact, rows nearly (a base's vocabulary adds some), tokens and seconds are not."""

    rows: int
    held_out_rows: int
    steps: int
    tokens_a_step: int
    seconds: int


def estimate(
    works: Sequence[Work], settings: TrainingSettings, committed: int = 0, pace: Pace | None = None
) -> Estimate:
    """Estimate the training on ``works`` with ``committed`` questions.

    ``pace`` is the machine's; the reference's by default. Raises InvalidWork.
    """
    pace = pace or Pace()
    dataset = build_dataset(works, seed=settings.seed, held_out_share=settings.held_out_share)
    count = len(dataset.training)
    rows = min(settings.rows_per_step, count) * settings.accumulation
    read = sum(map(_read_tokens, dataset.training)) / count * rows
    learned = sum(map(_learned_tokens, dataset.training)) / count * rows
    tokens = read + learned + _SHARED_TOKENS * settings.accumulation
    # Forward through all layers, backward to the lowest that is trained; the output layer both
    # ways, for what is learned.
    twice = 2 if settings.recompute else 1
    layers = pace.layer_weights * (1 + twice * settings.trained_layers)
    a_step = (tokens * layers + 2 * learned * pace.head_weights) * _STEP_FACTOR
    an_answer = (pace.layer_weights + pace.head_weights) * _ANSWER_FACTOR
    longest = max((_words(row.messages[-1].content) for row in dataset.held_out), default=0)
    asked = min(len(dataset.held_out), _MOST_UNSEEN) + committed
    answered = _answered_tokens(asked, min(longest + 1, _MOST_UNSEEN_TOKENS), settings)
    products = _START_PRODUCTS + settings.steps * a_step + answered * an_answer
    return Estimate(
        rows=count,
        held_out_rows=len(dataset.held_out),
        steps=settings.steps,
        tokens_a_step=round(tokens),
        seconds=round(products * pace.seconds_a_product),
    )


def largest_pack(works: Sequence[Work], settings: TrainingSettings) -> PackSize:
    """Estimate the largest pack of a run on ``works``. Raises InvalidWork.

    Packs are drawn at random: the largest of some hundred lies about ``_SPREAD`` deviations above
    the mean.
    """
    rows = build_dataset(works, seed=settings.seed, held_out_share=settings.held_out_share).training
    most = settings.max_row_tokens
    lengths = [min(most, _read_tokens(row) + _learned_tokens(row)) for row in rows]
    count = min(settings.rows_per_step, len(rows))

    def largest(each: list[float]) -> int:
        deviation = _SPREAD * statistics.pstdev(each) * math.sqrt(count)
        return round(min(count * max(each), count * statistics.fmean(each) + deviation))

    return PackSize(
        rows=count,
        tokens=_SHARED_TOKENS + largest(lengths),
        longest=math.ceil(max(lengths)),
        common=_SHARED_TOKENS,
        learned=largest([_learned_tokens(row) for row in rows]),
    )


def _words(text: str) -> float:
    return len(text.split()) * _TOKENS_A_WORD


def _read_tokens(row: Row) -> float:
    """Return about how many tokens a row has behind the shared ones and before what it teaches."""
    return sum(_words(m.content) for m in row.messages[:-1]) + len(row.messages) * _TEMPLATE_TOKENS


def _learned_tokens(row: Row) -> float:
    answer = _words(row.messages[-1].content)
    return min(answer, OPENING_TOKENS) if row.opening_only else answer


def _answered_tokens(asked: int, tokens: float, settings: TrainingSettings) -> float:
    """Return how many tokens of answers a run makes, every prompt's own."""
    evaluations = -(-settings.steps // settings.evaluate_every) + 2  # the base before, the end
    unseen = evaluations * asked * tokens
    general = 2 * _GENERAL * _GENERAL_TOKENS
    replayed = _REPLAYED * _REPLAY_TOKENS if settings.replay_share else 0
    # Twice (rows, passages) for each of adapter and base.
    probed = 4 * settings.probes * (min(settings.max_verbatim_tokens, 511) + 1)
    return unseen + general + replayed + probed
