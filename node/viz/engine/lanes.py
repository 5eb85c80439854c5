"""Adapters beside the batch: a copy of each running sequence's A and B, contiguous by rank bucket.

A decoding step applies all adapters of a bucket in a few batched products over the first ``count``
lanes, with no gather: the copy is made once, when a sequence joins. Owns lanes; does not know
where adapters come from. Invariant: lanes [0, count) of a bucket belong to distinct slots.
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

    @property
    def count(self) -> int:
        return len(self.slots)

    def join(self, slot: int, adapter: Resident) -> None:
        """Copy an adapter of this bucket into the next lane, for ``slot``."""
        lane = self.count
        for group, stacked in self.down.items():
            stacked[:, lane] = adapter.down[group]
        for linear, stacked in self.up.items():
            stacked[:, lane] = adapter.up[linear]
        self.slots.append(slot)

    def leave(self, slot: int) -> None:
        """Free the slot's lane; the last lane takes its place. Unknown slots are ignored."""
        if slot not in self.slots:
            return
        lane, last = self.slots.index(slot), self.count - 1
        if lane != last:
            for stacked in (*self.down.values(), *self.up.values()):
                stacked[:, lane] = stacked[:, last]
            self.slots[lane] = self.slots[last]
        self.slots.pop()

    def rename(self, source: int, target: int) -> None:
        """Follow a sequence that moved from one slot to another."""
        self.slots = [target if slot == source else slot for slot in self.slots]


class LaneSet:
    """All buckets; a bucket's memory is made when its first adapter joins."""

    def __init__(self, shape: LlamaShape, lanes: int, dtype: torch.dtype) -> None:
        self._shape, self._lanes, self._dtype = shape, lanes, dtype
        self._buckets: dict[int, Lanes] = {}

    def join(self, slot: int, adapter: Resident) -> None:
        if adapter.rank not in self._buckets:
            self._buckets[adapter.rank] = Lanes(self._shape, adapter.rank, self._lanes, self._dtype)
        self._buckets[adapter.rank].join(slot, adapter)

    def leave(self, slot: int) -> None:
        for bucket in self._buckets.values():
            bucket.leave(slot)

    def rename(self, source: int, target: int) -> None:
        for bucket in self._buckets.values():
            bucket.rename(source, target)

    def has(self, slot: int) -> bool:
        return any(slot in bucket.slots for bucket in self._buckets.values())

    def leave_from(self, first: int) -> None:
        """Drop the lanes of every slot from ``first`` on: rows that the next step will not have."""
        for bucket in self._buckets.values():
            for slot in [slot for slot in bucket.slots if slot >= first]:
                bucket.leave(slot)

    def used(self) -> list[Lanes]:
        return [bucket for bucket in self._buckets.values() if bucket.count]
