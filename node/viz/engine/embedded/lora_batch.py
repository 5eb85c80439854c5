"""Adapters beside the batch: a copy of each running sequence's A and B, contiguous by rank bucket.

The torch path of LoRA; the compiled one reads adapters where they lie. A decoding step applies
all adapters of a bucket in a few batched products over the first ``count`` lanes, with no gather:
the copy is made once, when a sequence joins. Owns lanes; does not know where adapters come from.
Invariants: lanes [0, count) of a bucket belong to distinct slots; all buckets together take no
more than the bound, if the adapters in use fit it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from viz.engine.embedded.loaded_adapter import GROUPS, adapter_bytes

if TYPE_CHECKING:
    from viz.basemodel.shape import LlamaShape
    from viz.engine.embedded.loaded_adapter import LoadedAdapter

_Planes = dict[str, list[torch.Tensor]]


class LoraBatch:
    """The lanes of one rank bucket; slots join and leave, the used lanes stay packed.

    ``down[group][layer]`` is (capacity, members * rank, in), ``up[linear][layer]`` (capacity, rank,
    out): a tensor a layer, so that growing never holds two copies of all.
    """

    def __init__(self, shape: LlamaShape, rank: int, dtype: torch.dtype) -> None:
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
        """Drop the lanes that ``wanted`` (slot, adapter) does not name; return what it lacks."""
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
        """Copy an adapter to the next lane, which must be there."""
        lane = self.count
        for planes, source in self._planes(adapter):
            for layer, plane in enumerate(planes):
                plane[lane] = source[layer]
        self.slots.append(slot)
        self._held.append(adapter)

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` lanes, at least those in use."""
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
        """Free a lane; the last one takes its place."""
        last = len(self._held) - 1
        if lane != last:
            for planes in (*self.down.values(), *self.up.values()):
                for plane in planes:
                    plane[lane] = plane[last]
            self._held[lane] = self._held[last]
        self._held.pop()


class LoraBatchBucket:
    """All buckets within ``max_bytes`` (None: unbounded), each as large as it had to be."""

    def __init__(
        self, shape: LlamaShape, slots: int, dtype: torch.dtype, max_bytes: int | None
    ) -> None:
        self._shape, self._slots, self._dtype = shape, slots, dtype
        self._max_bytes = max_bytes
        self._buckets: dict[int, LoraBatch] = {}

    @property
    def held_bytes(self) -> int:
        return sum(bucket.capacity * bucket.lane_bytes for bucket in self._buckets.values())

    def sync(self, wanted: list[tuple[int, LoadedAdapter]]) -> list[LoraBatch]:
        """Hold exactly ``wanted`` (slot, adapter); return the buckets in use."""
        for rank in {adapter.rank for _, adapter in wanted} - set(self._buckets):
            self._buckets[rank] = LoraBatch(self._shape, rank, self._dtype)
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

    def _grow(self, bucket: LoraBatch, needed: int) -> None:
        """Double, or take what is needed, for which the others give up what they do not use."""
        ample = min(self._slots, max(needed, 2 * bucket.capacity))
        more = (ample - bucket.capacity) * bucket.lane_bytes
        if self._max_bytes is None or self.held_bytes + more <= self._max_bytes:
            bucket.resize(ample)
            return
        for other in self._buckets.values():
            if other is not bucket and other.capacity > other.count:
                other.resize(other.count)
        bucket.resize(needed)
