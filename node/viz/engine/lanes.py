"""Adapters beside the batch: a copy of each running sequence's A and B, contiguous by rank bucket.

The torch path of LoRA; the compiled one reads adapters where they lie. A decoding step applies
all adapters of a bucket in a few batched products over the first ``count`` lanes, with no gather:
the copy is made once, when a sequence joins. Owns lanes; does not know where adapters come from.
Invariant: lanes [0, count) of a bucket belong to distinct slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viz.engine.adapters import GROUPS

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import LlamaShape
    from viz.engine.adapters import Resident


class Lanes:
    """The lanes of one rank bucket; slots join and leave, the used lanes stay packed."""

    def __init__(self, shape: LlamaShape, rank: int, lanes: int, dtype: torch.dtype) -> None:
        import torch

        self.rank = rank
        self.members = [
            [(linear, shape.linear(linear)[0]) for linear in group] for group in GROUPS.values()
        ]
        self.down = {
            group: torch.empty(
                shape.layers, lanes, len(members) * rank, shape.linear(members[0])[1], dtype=dtype
            )
            for group, members in GROUPS.items()
        }
        self.up = {
            linear: torch.empty(shape.layers, lanes, rank, width, dtype=dtype)
            for members in self.members
            for linear, width in members
        }
        self.slots: list[int] = []
        self._held: list[Resident] = []

    @property
    def count(self) -> int:
        return len(self.slots)

    def sync(self, wanted: list[tuple[int, Resident]]) -> None:
        """Hold exactly the adapters of ``wanted`` (slot, adapter), copying only new ones."""
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
        for slot, adapter in missing:
            self._join(slot, adapter)

    def _join(self, slot: int, adapter: Resident) -> None:
        lane = self.count
        for group, stacked in self.down.items():
            stacked[:, lane] = adapter.down[group]
        for linear, stacked in self.up.items():
            stacked[:, lane] = adapter.up[linear]
        self.slots.append(slot)
        self._held.append(adapter)

    def _drop(self, lane: int) -> None:
        """Free a lane; the last one takes its place."""
        last = len(self._held) - 1
        if lane != last:
            for stacked in (*self.down.values(), *self.up.values()):
                stacked[:, lane] = stacked[:, last]
            self._held[lane] = self._held[last]
        self._held.pop()


class LaneSet:
    """All buckets; a bucket's memory is made when its first adapter joins."""

    def __init__(self, shape: LlamaShape, lanes: int, dtype: torch.dtype) -> None:
        self._shape, self._lanes, self._dtype = shape, lanes, dtype
        self._buckets: dict[int, Lanes] = {}

    def sync(self, wanted: list[tuple[int, Resident]]) -> list[Lanes]:
        """Hold exactly ``wanted`` (slot, adapter); return the buckets in use."""
        for rank in {adapter.rank for _, adapter in wanted} - set(self._buckets):
            self._buckets[rank] = Lanes(self._shape, rank, self._lanes, self._dtype)
        for rank, bucket in self._buckets.items():
            bucket.sync([pair for pair in wanted if pair[1].rank == rank])
        return [bucket for bucket in self._buckets.values() if bucket.count]
