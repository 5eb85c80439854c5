"""What is drawn from which distribution: exact rules, and frequencies over fixed seeds."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from viz.domain.ports.engine import Sampling
from viz.engine.embedded import sampling
from viz.engine.embedded.sampling import TokenDraw, choose
from viz.engine.sequence import SampledToken
from viz.errors import EngineError

# Neither sorted nor near each other; eight tokens.
WEIGHTS = (0.05, 0.30, 0.02, 0.20, 0.15, 0.10, 0.17, 0.01)
DRAWS = 2_000
# The 1 - 1e-6 quantile of chi-square with 7 degrees of freedom or fewer.
BOUND = 40.5


def drawn(**rules: Any) -> Counter[int]:
    """Return how often each token is chosen, over seeds and places that never change."""
    asked = Sampling(max_tokens=1, **{"temperature": 1.0, **rules})
    logits = torch.tensor(WEIGHTS).log().repeat(DRAWS, 1)
    chosen = choose(logits, [TokenDraw(asked, seed=at % 7, index=at) for at in range(DRAWS)])
    found = [choice.token_id for choice in chosen if isinstance(choice, SampledToken)]
    assert len(found) == DRAWS
    return Counter(found)


def powered(kept: tuple[int, ...], temperature: float = 1.0) -> dict[int, float]:
    """Return the probabilities of ``kept`` at a temperature: p ** (1 / T), to a sum of 1."""
    raised = {token: WEIGHTS[token] ** (1 / temperature) for token in kept}
    return {token: value / sum(raised.values()) for token, value in raised.items()}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, powered(tuple(range(8)))),
        ({"temperature": 0.5}, powered(tuple(range(8)), 0.5)),
        ({"temperature": 3.0}, powered(tuple(range(8)), 3.0)),
        ({"top_k": 3}, powered((1, 3, 6))),
        ({"top_k": 1}, {1: 1.0}),
        ({"top_k": 8}, powered(tuple(range(8)))),
        ({"top_p": 0.6}, powered((1, 3, 6))),
        ({"top_p": 0.01}, {1: 1.0}),
        # Of the four best, 0.30 + 0.20 + 0.17 are the first to reach 0.7 of their 0.82.
        ({"top_k": 4, "top_p": 0.7}, powered((1, 3, 6))),
        # At half the temperature the best two alone hold 0.6 of everything.
        ({"top_p": 0.6, "temperature": 0.5}, powered((1, 3), 0.5)),
    ],
)
def test_tokens_follow_the_stated_distribution(
    rules: dict[str, Any], expected: dict[int, float]
) -> None:
    """Temperature reshapes, top-k and top-p cut off, and what is left keeps its proportions."""
    found = drawn(**rules)
    assert set(found) <= set(expected)
    distance = sum(
        (found[token] - DRAWS * share) ** 2 / (DRAWS * share) for token, share in expected.items()
    )
    assert distance <= BOUND


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-40, 1e-3])
@pytest.mark.parametrize("sharper", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_the_smallest_temperatures_are_greedy(temperature: float, sharper: dict[str, Any]) -> None:
    """A temperature that overflows a division bills the best token, not garbage."""
    rules = Sampling(max_tokens=1, temperature=temperature, logprobs=2, **sharper)
    logits = torch.tensor([[-3e4, 2.0, 3e4, 2.9e4], [0.0, 1.0, 0.5, -1.0]])
    for seed in range(5):
        chosen = choose(logits, [TokenDraw(rules, seed, 0)] * 2)
        assert [choice.token_id for choice in chosen if isinstance(choice, SampledToken)] == [2, 1]


def test_log_probabilities_are_the_models_own() -> None:
    """Neither temperature nor truncation changes what is reported."""
    rules = Sampling(max_tokens=1, temperature=0.3, top_k=1, logprobs=3)
    (choice,) = choose(torch.tensor([WEIGHTS]).log(), [TokenDraw(rules, 1, 0)])
    assert isinstance(choice, SampledToken)
    assert choice.logprob == pytest.approx(math.log(0.30), abs=1e-5)
    assert [token for token, _ in choice.top] == [1, 3, 6]


def test_a_row_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overflow, or any fault in choosing, is the error of its own row."""
    choice_of = sampling._choice

    def breaks(row: torch.Tensor, best: int, draw: TokenDraw) -> SampledToken:
        if draw.seed == 13:
            raise RuntimeError("cannot choose")
        return choice_of(row, best, draw)

    monkeypatch.setattr(sampling, "_choice", breaks)
    rules = Sampling(max_tokens=1, temperature=1.0)
    logits = torch.tensor([WEIGHTS, WEIGHTS, [math.nan, *WEIGHTS[1:]], WEIGHTS]).log()
    found = choose(logits, [TokenDraw(rules, seed, 0) for seed in (1, 13, 1, 1)])
    assert isinstance(found[1], EngineError) and isinstance(found[2], EngineError)
    assert found[0] == found[3] == choose(logits[:1], [TokenDraw(rules, 1, 0)])[0]
