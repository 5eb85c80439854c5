"""Keys and values of every running sequence, one slot a sequence.

Slot-contiguous rather than paged: a decoding step then reads whole slots as one strided view, with
no gather, and the operating system backs only the pages that were written. Layout: (layers, slots,
key-value heads, capacity, head size). Owns slots and memory; does not know attention. Invariant:
what a slot's last sequence left is gone when the next one takes it, if ``wrote`` was told of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viz.engine.embedded.process_memory import zeros

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import LlamaShape


class KvCache:
    """Preallocated keys and values; ``take`` gives the lowest free slot."""

    def __init__(self, shape: LlamaShape, slots: int, capacity: int, dtype: torch.dtype) -> None:
        size = (shape.layers, slots, shape.kv_heads, capacity, shape.head_dim)
        # Zeros, not garbage: a masked NaN would still poison a softmax's weighted sum. So would one
        # that an overflowing adapter left there.
        self.keys, self.values = zeros(size, dtype), zeros(size, dtype)
        self.slots, self.capacity = slots, capacity
        self._free = set(range(slots))
        self._written = [0] * slots

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        slot = min(self._free)
        self._free.remove(slot)
        self._clear(slot)
        return slot

    def wrote(self, slot: int, end: int) -> None:
        """Note that positions below ``end`` may hold something, for a reader that masks."""
        self._written[slot] = max(self._written[slot], end)

    def give(self, slot: int) -> None:
        self._free.add(slot)

    def lower_free(self, slot: int) -> int | None:
        """Return a free slot below ``slot``, if any."""
        lowest = min(self._free, default=slot)
        return lowest if lowest < slot else None

    def move(self, source: int, target: int, length: int) -> None:
        """Copy ``length`` cached tokens to the free slot ``target`` and free ``source``."""
        self._clear(target)
        self.copy(source, target, length)
        self._free.remove(target)
        self._free.add(source)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` cached tokens from one slot to another."""
        self.wrote(target, length)
        for plane in (self.keys, self.values):
            plane[:, target, :, :length] = plane[:, source, :, :length]

    def _clear(self, slot: int) -> None:
        for plane in (self.keys, self.values):
            plane[:, slot, :, : self._written[slot]] = 0
        self._written[slot] = 0
