"""Store the keys and values of every running sequence, one slot a sequence.

A slot is contiguous, not paged: a decoding step reads whole slots as one strided view without a
gather, and the operating system provides memory only for pages that were written. Layout: (layers,
slots, key-value heads, capacity, head size). Invariant: the values of a slot's last sequence are
zeroed when the next one takes it, if ``wrote`` was called for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viz.engine.embedded.process_memory import zeros

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import DecoderShape


class KvCache:
    """Preallocated keys and values; ``take`` gives the lowest free slot."""

    def __init__(self, shape: DecoderShape, slots: int, capacity: int, dtype: torch.dtype) -> None:
        size = (shape.layers, slots, shape.kv_heads, capacity, shape.head_dim)
        # Zeros, because a masked NaN still makes the weighted sum of attention NaN. The same holds
        # for a NaN that an overflowing adapter left in a slot: so a slot is cleared when taken.
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
        """Record that positions below ``end`` were written, so that they are cleared later.

        Only the torch path needs it: it reads masked positions too. The compiled pass does not.
        """
        self._written[slot] = max(self._written[slot], end)

    def give(self, slot: int) -> None:
        self._free.add(slot)

    def lower_free(self, slot: int) -> int | None:
        """Return a free slot below ``slot``, if any."""
        lowest = min(self._free, default=slot)
        return lowest if lowest < slot else None

    def move(self, source: int, target: int, length: int) -> None:
        """Copy ``length`` cached tokens to the free slot ``target``, and free ``source``."""
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
