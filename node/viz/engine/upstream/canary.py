"""Judge whether a server computes the right model: the base model, or the adapter asked for.

Servers have answered one adapter's request with another adapter, or with the bare base model,
without an error (vllm-project/vllm issues 47724, 55193). A canary is a request for the likeliest
next tokens after some prefixes of one fixed text; their log-probabilities are compared with our own
pass of base and adapter. This module is pure: it sends no request and runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

# Any text will do: an adapter changes the probability of nearly every token.
CANARY_TEXT: Final = (
    "The harbour master closed the gate at nine, wrote the tide in his book and said that nobody "
    "would sail before the wind had turned. Two boats came in all the same, one with grain and one "
    "with letters from the capital."
)
CANARY_TOKENS: Final = 48
# A prefix of the text ends at each multiple of this many tokens.
CANARY_STEP: Final = 12
# The candidates asked of a server (vLLM's own limit), and those stored from our own pass.
ASKED: Final = 20
KEPT: Final = 64
# Smaller differences than this are rounding in any arithmetic.
_NOISE: Final = 1e-3
# The candidates after one prefix: token id -> natural-log probability.
Candidates = Mapping[int, float]


def beginnings(prompt: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the prefixes of the canary's text, the longest one last."""
    ends = range(CANARY_STEP, len(prompt) + 1, CANARY_STEP)
    return [tuple(prompt[:end]) for end in ends] or [tuple(prompt)]


def distance(measured: Sequence[Candidates], expected: Sequence[Candidates]) -> float:
    """Return the mean difference in nats over all candidates of ``measured``.

    It is infinite if there are no candidates, if the lengths differ, or if a value is not a number.
    A candidate missing in ``expected`` is known only to be less likely than those in it.
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
    confused with it. An answer is wrong if it is further away than ``margin``, or if it is clearly
    nearer to another model: two adapters may differ by less than the server's arithmetic errs.
    """
    away = distance(measured, expected[name])
    nearest = min(expected, key=lambda other: distance(measured, expected[other]))
    nearer = distance(measured, expected[nearest])
    if nearest != name and 2 * nearer < away and away > _NOISE:
        return (
            f"answered as {nearest} would: {nearer:.3f} nats away from it, {away:.3f} from {name}"
        )
    if away > margin:
        return f"is {away:.3f} nats away from the expected one; at most {margin:g} is allowed"
    return None
