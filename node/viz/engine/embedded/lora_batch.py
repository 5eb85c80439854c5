"""Keep a copy of each running sequence's adapter, contiguous in memory for batched products.

This is the torch path of LoRA; the compiled path reads the adapters in place. A *lane* is the place
of one sequence's copy. The lanes of one padded rank are a bucket. A decoding step applies all
adapters of a bucket in a few batched products over its first ``count`` lanes. The copy is made
once, when a sequence joins, so that no step has to gather adapters. Invariants: lanes [0, count) of
a bucket belong to different slots; all buckets together stay within the memory bound, if the
adapters in use fit it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from viz.engine.embedded.loaded_adapter import GROUPS, adapter_bytes

if TYPE_CHECKING:
    from viz.basemodel.shape import DecoderShape
    from viz.engine.embedded.loaded_adapter import LoadedAdapter

_Planes = dict[str, list[torch.Tensor]]


class LoraBucket:
    """The lanes of one rank bucket; the lanes in use are always the first ones.

    ``down[group][layer]`` is (capacity, members * rank, in), ``up[linear][layer]`` (capacity, rank,
    out). Each layer has its own tensor, so that growing holds two copies of one layer only.
    """

    def __init__(self, shape: DecoderShape, rank: int, dtype: torch.dtype) -> None:
        self.rank, self.capacity = rank, 0
        self.lane_bytes = adapter_bytes(shape, rank, dtype.itemsize)
        self.down: _Planes = {}
        self.up: _Planes = {}
        for group, members in GROUPS.items():
            into = shape.linear(members[0])[1]
            empty = torch.empty(0, len(members) * rank, into, dtype=dtype)
            self.down[group] = [empty] * shape.layers
            for linear in members:
                empty = torch.empty(0, rank, shape.linear(linear)[0], dtype=dtype)
                self.up[linear] = [empty] * shape.layers
        self.slots: list[int] = []
        self._held: list[LoadedAdapter] = []

    @property
    def count(self) -> int:
        return len(self.slots)

    def keep(self, wanted: list[tuple[int, LoadedAdapter]]) -> list[tuple[int, LoadedAdapter]]:
        """Free the lanes that are not in ``wanted`` (slot, adapter); return its missing entries."""
        missing = list(wanted)
        slots: list[int | None] = []
        for held in self._held:
            match = next((pair for pair in missing if pair[1] is held), None)
            slots.append(match[0] if match else None)
            if match:
                missing.remove(match)
        for lane in reversed([lane for lane, slot in enumerate(slots) if slot is None]):
            self._drop(lane)
            slots[lane] = slots[-1]
            slots.pop()
        self.slots = [slot for slot in slots if slot is not None]
        return missing

    def join(self, slot: int, adapter: LoadedAdapter) -> None:
        """Copy an adapter to the next lane; ``capacity`` must be large enough."""
        lane = self.count
        for planes, source in self._planes(adapter):
            for layer, plane in enumerate(planes):
                plane[lane] = source[layer]
        self.slots.append(slot)
        self._held.append(adapter)

    def resize(self, capacity: int) -> None:
        """Change the number of lanes to ``capacity``, which must be at least ``count``."""
        self.capacity = capacity
        for planes in (*self.down.values(), *self.up.values()):
            for layer, old in enumerate(planes):
                planes[layer] = old.new_empty(capacity, *old.shape[1:])
                planes[layer][: self.count] = old[: self.count]

    def _planes(self, adapter: LoadedAdapter) -> list[tuple[list[torch.Tensor], torch.Tensor]]:
        return [
            *((planes, adapter.down[group]) for group, planes in self.down.items()),
            *((planes, adapter.up[linear]) for linear, planes in self.up.items()),
        ]

    def _drop(self, lane: int) -> None:
        """Free a lane; the last lane moves to its place."""
        last = len(self._held) - 1
        if lane != last:
            for planes in (*self.down.values(), *self.up.values()):
                for plane in planes:
                    plane[lane] = plane[last]
            self._held[lane] = self._held[last]
        self._held.pop()


class LoraBatch:
    """The buckets of all ranks, together within ``max_bytes`` (None: unbounded)."""

    def __init__(
        self, shape: DecoderShape, slots: int, dtype: torch.dtype, max_bytes: int | None
    ) -> None:
        self._shape, self._slots, self._dtype = shape, slots, dtype
        self._max_bytes = max_bytes
        self._buckets: dict[int, LoraBucket] = {}

    @property
    def held_bytes(self) -> int:
        return sum(bucket.capacity * bucket.lane_bytes for bucket in self._buckets.values())

    def sync(self, wanted: list[tuple[int, LoadedAdapter]]) -> list[LoraBucket]:
        """Change the lanes to exactly ``wanted`` (slot, adapter); return the buckets in use."""
        for rank in {adapter.rank for _, adapter in wanted} - set(self._buckets):
            self._buckets[rank] = LoraBucket(self._shape, rank, self._dtype)
        missing = {
            rank: bucket.keep([pair for pair in wanted if pair[1].rank == rank])
            for rank, bucket in self._buckets.items()
        }
        for rank, bucket in self._buckets.items():
            needed = bucket.count + len(missing[rank])
            if needed > bucket.capacity:
                self._grow(bucket, needed)
            for slot, adapter in missing[rank]:
                bucket.join(slot, adapter)
        return [bucket for bucket in self._buckets.values() if bucket.count]

    def _grow(self, bucket: LoraBucket, needed: int) -> None:
        """Double a bucket's capacity; near the memory bound take only what is needed.

        Near the bound, the other buckets first free the lanes that they do not use.
        """
        ample = min(self._slots, max(needed, 2 * bucket.capacity))
        more = (ample - bucket.capacity) * bucket.lane_bytes
        if self._max_bytes is None or self.held_bytes + more <= self._max_bytes:
            bucket.resize(ample)
            return
        for other in self._buckets.values():
            if other is not bucket and other.capacity > other.count:
                other.resize(other.count)
        bucket.resize(needed)
