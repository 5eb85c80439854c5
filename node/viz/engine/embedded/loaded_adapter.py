"""Arrange an adapter in memory: its linear layers in groups, padded to a rank bucket.

Owns this layout and its size. Invariant: an adapter's size depends on its rank bucket only, not on
which linear layers it changes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from viz.basemodel.adapter_file import AdapterWeights
from viz.domain.units import AdapterId

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import DecoderShape

RANK_BUCKETS: Final = (8, 16, 32, 64)
# Linear layers that read the same input are applied together: group -> its layers.
GROUPS: Final = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def bucket_of(rank: int) -> int:
    """Return the smallest rank bucket that is at least ``rank``."""
    return next(bucket for bucket in RANK_BUCKETS if rank <= bucket)


def adapter_bytes(shape: DecoderShape, rank: int, item_bytes: int) -> int:
    """Return the size in bytes of an adapter of rank ``rank`` on all linear layers."""
    return sum(rank * (out + into) for _, (out, into) in shape.modules()) * item_bytes


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedAdapter:
    """An adapter in memory, padded to its rank bucket.

    ``down[group]`` (LoRA's A) is (layers, members * rank, in). ``up[linear]`` (LoRA's B) is
    (layers, rank, out) and contains the LoRA scaling. In float16 both are scaled to its range, and
    their product must be multiplied by ``factors[linear]``, a power of two; in other dtypes that
    is 1. ``file`` identifies the file that it was read from.
    """

    adapter_id: AdapterId
    rank: int
    down: dict[str, torch.Tensor]
    up: dict[str, torch.Tensor]
    factors: dict[str, float]
    file: Hashable = None


def stack(
    adapter_id: AdapterId, weights: AdapterWeights, shape: DecoderShape, dtype: torch.dtype
) -> LoadedAdapter:
    """Arrange checked weights in memory, padded to their rank bucket."""
    import torch

    rank = bucket_of(weights.header.rank)
    loaded = LoadedAdapter(adapter_id, rank, {}, {}, {})
    for group, members in GROUPS.items():
        into = shape.linear(members[0])[1]
        down = torch.zeros(shape.layers, len(members) * rank, into, dtype=dtype)
        loaded.down[group] = down
        for place, linear in enumerate(members):
            up = torch.zeros(shape.layers, rank, shape.linear(linear)[0], dtype=dtype)
            lower, upper = _by_rank(weights, linear, shape.layers)
            down_lift, up_lift = (_lift(part, dtype) for part in (lower, upper))
            loaded.up[linear] = up
            loaded.factors[linear] = 1.0 / (down_lift * up_lift)
            for own, (layers, stacked) in lower.items():
                rows = slice(place * rank, place * rank + own)
                lifted = stacked if down_lift == 1.0 else stacked * down_lift
                down[layers, rows] = lifted.to(dtype)
            for own, (layers, stacked) in upper.items():
                lifted = stacked if up_lift == 1.0 else stacked * up_lift
                up[layers, :own] = lifted.to(dtype).transpose(1, 2)
    return loaded


_Stacks = dict[int, tuple["slice | list[int]", "torch.Tensor"]]


def _by_rank(weights: AdapterWeights, linear: str, layers: int) -> tuple[_Stacks, _Stacks]:
    """Return rank -> (layers, As) and rank -> (layers, Bs times the LoRA scaling) of a linear.

    All layers of one rank are handled together: one by one, copying takes longer than reading.
    """
    import torch

    found: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
    for layer in range(layers):
        if (pair := weights.modules.get(f"model.layers.{layer}.{linear}")) is not None:
            found.setdefault(pair[0].shape[0], []).append((layer, *pair))
    lower: _Stacks = {}
    upper: _Stacks = {}
    for own, parts in found.items():
        # A slice is copied at once; a list of indices is slower.
        held = [layer for layer, _, _ in parts]
        run = slice(held[0], held[-1] + 1)
        places = run if run.stop - run.start == len(held) else held
        lower[own] = places, torch.stack([a for _, a, _ in parts])
        scaled = torch.stack([b for _, _, b in parts]).float()  # rounded once, after scaling
        upper[own] = places, scaled.mul_(weights.header.scaling(own))
    return lower, upper


def _lift(stacks: _Stacks, dtype: torch.dtype) -> float:
    """Return the power of two that scales the largest value to the top of float16's range.

    float16 then keeps 11 significant bits of every value down to 2**-28 of the largest. Returns 1
    for other dtypes.
    """
    import torch

    if dtype != torch.float16:
        return 1.0
    bounds = [float(bound) for _, part in stacks.values() for bound in part.aminmax()]
    largest = max((abs(bound) for bound in bounds), default=0.0)
    # Bounded, so that it stays within float32's exponents for any value in the file.
    return 2.0 ** (15 - max(-80, min(80, math.frexp(largest)[1])))
