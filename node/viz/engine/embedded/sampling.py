"""Choose tokens from logits, each row by its own parameters.

Owns temperature, top-k, top-p, seeds and log-probabilities. A row's random number is a hash of its
seed and token index, so neighbours, pauses and batch order cannot change it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from viz.domain.ports.engine import Sampling
from viz.engine.sequence import SampledToken
from viz.errors import EngineError

if TYPE_CHECKING:
    import torch

MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class TokenDraw:
    """How one row is sampled: its parameters, its seed, and the index of the token to choose."""

    rules: Sampling
    seed: int
    index: int


def choose(logits: torch.Tensor, draws: Rows[TokenDraw]) -> list[SampledToken | EngineError]:
    """Choose one token for each row of ``logits`` (rows, vocabulary); greedy at temperature 0.

    Log-probabilities are the model's own, before temperature and truncation. If a row's numbers
    overflowed (an adapter can cause that) or its sampling fails, only this row gets an error.
    """
    # numpy, because torch would wake its threads. numpy's argmax returns a NaN if there is one,
    # so the check below finds it.
    numbers = logits.float().cpu().numpy()
    greedy = numbers.argmax(axis=-1).tolist()
    found: list[SampledToken | EngineError] = []
    for place, (row, best_id, draw) in enumerate(zip(logits, greedy, draws, strict=True)):
        if not math.isfinite(numbers[place, best_id]):
            overflow = "the model's numbers overflow with this adapter: it cannot be served"
            found.append(EngineError(overflow))
            continue
        try:
            found.append(_choice(row, best_id, draw))
        except Exception as error:  # noqa: BLE001 - one row must not end the others
            found.append(EngineError(f"no token could be chosen: {type(error).__name__}"))
    return found


def choose_run(
    logits: torch.Tensor, draw: TokenDraw, guess: Rows[int]
) -> list[SampledToken | EngineError]:
    """Choose tokens one after another while each is the guessed one.

    ``logits`` (1 + guessed, vocabulary): row n is that after n guessed tokens. The tokens are those
    of ``choose`` step by step, so there is one at least, and the last may differ from the guess.
    """
    found: list[SampledToken | EngineError] = []
    for place, expected in enumerate([*guess, None]):
        (one,) = choose(logits[place : place + 1], [replace(draw, index=draw.index + place)])
        found.append(one)
        if isinstance(one, EngineError) or one.token_id != expected:
            break
    return found


def _choice(row: torch.Tensor, best: int, draw: TokenDraw) -> SampledToken:
    import torch

    rules = draw.rules
    token = best if rules.temperature <= 0 else _sample(row, draw)
    if rules.logprobs is None:
        return SampledToken(token)
    logprobs = torch.log_softmax(row.float(), dim=-1)
    values, ids = logprobs.topk(min(rules.logprobs, MAX_LOGPROBS))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return SampledToken(token, float(logprobs[token]), top)


def _sample(row: torch.Tensor, draw: TokenDraw) -> int:
    import torch

    rules = draw.rules
    # float64, so that the choice does not depend on how the machine vectorises the sums. The
    # maximum is subtracted first, so that a very small temperature does not overflow.
    row = row.double()
    probabilities = torch.softmax((row - row.max()) / rules.temperature, dim=-1)
    ids: torch.Tensor | None = None
    if 0 < rules.top_k < probabilities.numel():
        probabilities, ids = probabilities.topk(rules.top_k, sorted=True)
    if rules.top_p < 1.0:
        if ids is None:
            probabilities, ids = probabilities.sort(descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        kept = max(1, int((before < rules.top_p * float(probabilities.sum())).sum()))
        probabilities, ids = probabilities[:kept], ids[:kept]
    running = probabilities.cumsum(-1)
    target = uniform(draw.seed, draw.index) * float(running[-1])
    place = min(int(torch.searchsorted(running, target, right=True)), running.numel() - 1)
    return place if ids is None else int(ids[place])


def uniform(seed: int, index: int) -> float:
    """Return the pseudo-random number in [0, 1) for a seed and a token index."""
    mixed = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(mixed, "big") >> 11) / 2**53
