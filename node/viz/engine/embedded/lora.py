"""Add the adapters' products to the output of a linear group, in torch.

``ChunkApply`` serves prefill (runs of tokens with one adapter each), ``LaneApply`` decoding (one
token a slot, with the copies of ``viz.engine.embedded.lora_batch``).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import TYPE_CHECKING, Protocol

import torch

from viz.engine.embedded.loaded_adapter import GROUPS

if TYPE_CHECKING:
    from viz.engine.embedded.loaded_adapter import LoadedAdapter
    from viz.engine.embedded.lora_batch import LoraBucket


class Apply(Protocol):
    """The adapters of one forward pass."""

    def add(self, layer: int, group: str, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add B(A(x)) to ``y`` (tokens, out) in place; ``x`` is (tokens, in)."""
        ...


class ChunkApply:
    """Consecutive runs of tokens with one adapter each, given as (tokens, adapter)."""

    def __init__(self, runs: Rows[tuple[int, LoadedAdapter | None]]) -> None:
        self._spans: list[tuple[int, int, LoadedAdapter]] = []
        start = 0
        for size, adapter in runs:
            if adapter is not None:
                self._spans.append((start, start + size, adapter))
            start += size

    def add(self, layer: int, group: str, x: torch.Tensor, y: torch.Tensor) -> None:
        for start, end, adapter in self._spans:
            inner = x[start:end] @ adapter.down[group][layer].t()
            place = 0
            for member, linear in enumerate(GROUPS[group]):
                up = adapter.up[linear][layer]
                part = inner[:, member * adapter.rank : (member + 1) * adapter.rank]
                y[start:end, place : place + up.shape[1]].addmm_(part, up)
                place += up.shape[1]


class LaneApply:
    """One token a slot, each with the adapter in the slot's lane."""

    def __init__(self, buckets: Rows[LoraBucket], slots: int) -> None:
        whole = list(range(slots))
        self._buckets = [
            (lanes, None if lanes.slots == whole else torch.tensor(lanes.slots))
            for lanes in buckets
        ]

    def add(self, layer: int, group: str, x: torch.Tensor, y: torch.Tensor) -> None:
        for lanes, rows in self._buckets:
            count, rank = lanes.count, lanes.rank
            picked = x if rows is None else x.index_select(0, rows)
            inner = torch.bmm(picked.unsqueeze(1), lanes.down[group][layer][:count].transpose(1, 2))
            place = 0
            for member, linear in enumerate(GROUPS[group]):
                up = lanes.up[linear][layer][:count]
                part = inner[:, :, member * rank : (member + 1) * rank]
                added = torch.bmm(part, up).squeeze(1)
                target = y[:, place : place + up.shape[2]]
                if rows is None:
                    target += added
                else:
                    target.index_add_(0, rows, added)
                place += up.shape[2]
