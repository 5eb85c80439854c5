"""Judge whether a server computes what it should: the base model, or one adapter and no other.

Servers have answered one adapter's request with another adapter, or with the bare base model,
without an error (vllm-project/vllm issues 47724, 55193). A canary asks what follows some beginnings
of one fixed text, and compares the likeliest tokens' log-probabilities with our own pass of base
and adapter. Pure: asks nobody, and computes no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

# Any text does: an adapter changes the probability of nearly every token of it.
CANARY_TEXT: Final = (
    "The harbour master closed the gate at nine, wrote the tide in his book and said that nobody "
    "would sail before the wind had turned. Two boats came in all the same, one with grain and one "
    "with letters from the capital."
)
CANARY_TOKENS: Final = 48
# A beginning of the text ends after each multiple of so many tokens.
CANARY_STEP: Final = 12
# How many candidates a server is asked for (vLLM's own bound), and how many of our pass are kept.
ASKED: Final = 20
KEPT: Final = 64
# Two numbers nearer than this are the same in any arithmetic.
_NOISE: Final = 1e-3
# What follows each beginning: candidate token -> natural-log probability.
Candidates = Mapping[int, float]


def beginnings(prompt: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the beginnings of the canary's text that are asked for, the longest one last."""
    ends = range(CANARY_STEP, len(prompt) + 1, CANARY_STEP)
    return [tuple(prompt[:end]) for end in ends] or [tuple(prompt)]


def distance(measured: Sequence[Candidates], expected: Sequence[Candidates]) -> float:
    """Return the mean difference in nats over all candidates of ``measured``.

    It is infinite if there are none, if the lengths differ, or if a number is none. Of a candidate
    that ``expected`` does not have it is only known that it is less likely than those.
    """
    if len(measured) != len(expected) or not all(measured) or not all(expected):
        return math.inf
    total, count = 0.0, 0
    for found, known in zip(measured, expected, strict=True):
        least = min(known.values())
        for token, logprob in found.items():
            count += 1
            total += abs(logprob - known[token]) if token in known else max(0.0, logprob - least)
    return total / count if count and math.isfinite(total) else math.inf


def mismatch(
    measured: Sequence[Candidates],
    name: str,
    expected: Mapping[str, Sequence[Candidates]],
    margin: float,
) -> str | None:
    """Return what is wrong with a server's answer for ``name``, or None if it is right.

    ``expected`` has the candidates of ``name`` and of every other model that the server may have
    confused with it. Wrong is what lies beyond ``margin``, and within it what lies clearly
    nearer to another model: adapters may be more alike than the server's arithmetic is exact.
    """
    away = distance(measured, expected[name])
    nearest = min(expected, key=lambda other: distance(measured, expected[other]))
    nearer = distance(measured, expected[nearest])
    if nearest != name and 2 * nearer < away and away > _NOISE:
        return (
            f"answered as {nearest} would: {nearer:.3f} nats away from it, {away:.3f} from {name}"
        )
    if away > margin:
        return f"is {away:.3f} nats away from what it should be; at most {margin:g} is allowed"
    return None
