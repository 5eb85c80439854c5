"""Store the keys and values of every running sequence, one slot a sequence.

A slot is contiguous, not paged: a decoding step reads whole slots as one strided view without a
gather, and the operating system provides memory only for pages that were written. Layout: (layers,
slots, key-value heads, capacity, head size). Invariant: a free slot holds no NaN, and takes next to
no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viz.engine.embedded.process_memory import clear, zeros

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import DecoderShape


class KvCache:
    """Preallocated keys and values; ``take`` gives the lowest free slot."""

    def __init__(self, shape: DecoderShape, slots: int, capacity: int, dtype: torch.dtype) -> None:
        size = (shape.layers, slots, shape.kv_heads, capacity, shape.head_dim)
        # Zeros, because a masked NaN still makes the weighted sum of attention NaN. The same holds
        # for a NaN that an overflowing adapter left in a slot: so a slot is cleared when freed.
        self.keys, self.values = zeros(size, dtype), zeros(size, dtype)
        self.slots, self.capacity = slots, capacity
        self._free = set(range(slots))

    @property
    def free(self) -> int:
        """The number of free slots."""
        return len(self._free)

    def take(self) -> int:
        """Take the lowest free slot; there must be one."""
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def give(self, slot: int) -> None:
        """Free a slot, and return its memory to the system."""
        for plane in (self.keys, self.values):
            for layer in plane:
                clear(layer[slot])
        self._free.add(slot)

    def lower_free(self, slot: int) -> int | None:
        """Return a free slot below ``slot``, if any."""
        lowest = min(self._free, default=slot)
        return lowest if lowest < slot else None

    def higher_free(self, slot: int) -> int | None:
        """Return the highest free slot, if it is above ``slot``."""
        highest = max(self._free, default=slot)
        return highest if highest > slot else None

    def move(self, source: int, target: int, length: int) -> None:
        """Copy ``length`` cached tokens to the free slot ``target``, and free ``source``."""
        self.copy(source, target, length)
        self._free.remove(target)
        self.give(source)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` cached tokens from one slot to another."""
        for plane in (self.keys, self.values):
            plane[:, target, :, :length] = plane[:, source, :, :length]
