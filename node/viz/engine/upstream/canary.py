"""Judge whether a server computes what it should: the base model, or one adapter and no other.

Servers have answered one adapter's request with another adapter, or with the bare base model,
without an error (vllm-project/vllm issues 47724, 55193). A canary asks for the log-probabilities of
one fixed text, token by token, and compares them with our own pass of base and adapter. Pure: asks
nobody, and computes no model.
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
# Two numbers nearer than this are the same in any arithmetic.
_NOISE: Final = 1e-3


def distance(measured: Sequence[float], expected: Sequence[float]) -> float:
    """Return the mean difference, in nats a token; infinite if lengths differ or a NaN is in."""
    if len(measured) != len(expected) or not measured:
        return math.inf
    mean = sum(abs(a - b) for a, b in zip(measured, expected, strict=True)) / len(measured)
    return mean if math.isfinite(mean) else math.inf


def mismatch(
    measured: Sequence[float],
    name: str,
    expected: Mapping[str, Sequence[float]],
    margin: float,
) -> str | None:
    """Return what is wrong with a server's answer for ``name``, or None if it is right.

    ``expected`` has the log-probabilities of ``name`` and of every other model that the server may
    have confused with it. Wrong is what lies beyond ``margin``, and within it what lies clearly
    nearer to another model: adapters may be more alike than the server's arithmetic is exact.
    """
    away = distance(measured, expected[name])
    nearest = min(expected, key=lambda other: distance(measured, expected[other]))
    nearer = distance(measured, expected[nearest])
    if nearest != name and 2 * nearer < away and away > _NOISE:
        return (
            f"answered as {nearest} would: {nearer:.3f} nats a token away from it, {away:.3f} from "
            f"{name}"
        )
    if away > margin:
        return (
            f"is {away:.3f} nats a token away from what it should be; at most {margin:g} is allowed"
        )
    return None
