"""Compute activations again in the backward pass instead of keeping them (gradient checkpointing).

Owns which parts are computed twice: each decoder layer, and the head with the loss. A layer then
keeps its input only. Loss and gradients are those of the usual pass, up to the order of sums in the
head, which is computed in slices of positions. Why not transformers' own switch: it also drops the
cache in generation, because a model here is always in train mode. So only passes over packs, with
gradients, are changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

# Positions of the head whose logits are in memory at the same time.
SLICE: Final = 256


class _Twice:
    """A layer's forward that is computed again in the backward pass."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **named: Any) -> Any:
        import torch

        if not torch.is_grad_enabled() or named.get("rows") is None:
            return self._forward(*args, **named)
        return again(self._forward, *args, **named)


def again(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Return the function's value, and compute it again in the backward pass.

    Nothing here draws random numbers, so their state is not kept.
    """
    from torch.utils.checkpoint import checkpoint

    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **named)


def recompute_layers(causal: Any, first: int) -> None:
    """Make the decoder layers from ``first`` on compute twice; those below keep nothing anyway."""
    for layer in causal.model.layers[first:]:
        layer.forward = _Twice(layer.forward)


def recomputes(causal: Any) -> bool:
    """Return whether this model's passes over packs are computed twice."""
    return isinstance(causal.model.layers[-1].forward, _Twice)


def sliced(positions: int) -> list[tuple[int, int]]:
    """Return (start, end) of the slices of so many positions."""
    return [(start, min(start + SLICE, positions)) for start in range(0, positions, SLICE)]


def places_within(places: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Return which entries of ``places`` lie in a slice, as a mask."""
    return (places >= start) & (places < end)
