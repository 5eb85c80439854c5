"""Compute the tables of rotary position embeddings.

Owns the frequencies of each kind: plain, and stretched for longer contexts by one factor
("linear"), by wavelength ("llama3": Llama 3.1) or by ramp ("yarn": arXiv 2309.00071, section 3.2).
A test compares them with transformers.
"""

from __future__ import annotations

import math

import torch

from viz.basemodel.shape import Rope


def rotations(rope: Rope, head_dim: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines of positions 0 to ``tokens`` - 1, each (tokens, head_dim / 2)."""
    angles = torch.outer(torch.arange(tokens).float(), frequencies(rope, head_dim))
    scale = 1.0
    if rope.kind == "yarn":
        scale = rope.attention_factor or 0.1 * math.log(max(1.0, rope.factor)) + 1.0
    return angles.cos() * scale, angles.sin() * scale


def frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Return each pair's rotation angle per position, in radians, (head_dim / 2)."""
    half = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / rope.theta**half
    match rope.kind:
        case "linear":
            return plain / rope.factor
        case "llama3":
            return _by_wavelength(rope, plain)
        case "yarn":
            return _by_ramp(rope, plain, head_dim)
        case _:
            return plain


def _by_wavelength(rope: Rope, plain: torch.Tensor) -> torch.Tensor:
    """Stretch wavelengths above the trained context, keep short ones, blend in between."""
    turns = rope.original_tokens * plain / (2 * math.pi)
    kept = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency)
    kept = kept.clamp(0.0, 1.0)
    return (1 - kept) * plain / rope.factor + kept * plain


def _by_ramp(rope: Rope, plain: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Keep pairs that turn ``beta_fast`` times in the trained context, stretch slow ones."""

    def place(turns: float) -> float:
        waves = rope.original_tokens / (turns * 2 * math.pi)
        return head_dim * math.log(waves) / (2 * math.log(rope.theta))

    low, high = place(rope.beta_fast), place(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(head_dim // 2).float() - low) / (high - low)
    stretched = ramp.clamp(0.0, 1.0)
    return plain / rope.factor * stretched + plain * (1 - stretched)
