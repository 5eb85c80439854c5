"""Keep the cache slots of ended sequences, so that later requests can reuse their prefixes.

Owns which slots are kept, for which requests, and until when; the scheduler moves the slots.
Invariants: an entry is found only under its own key; the newest entry is dropped last; an entry has
no NaN.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from viz.engine.embedded.sequence import Sequence

# Fewer tokens than this are computed faster than a slot is prepared for them.
LEAST_TOKENS: Final = 32


@dataclass(eq=False, slots=True)
class KeptPrefix:
    """A slot of an ended sequence, with the keys and values of ``tokens``."""

    key: Hashable
    tokens: list[int]
    slot: int
    since_s: float = field(default_factory=time.monotonic)


class PrefixCache:
    """The kept slots of one cache, oldest first; each is kept for ``keep_s`` seconds."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._entries: list[KeptPrefix] = []

    def __len__(self) -> int:
        return len(self._entries)

    def may_keep(self, sequence: Sequence) -> bool:
        """Return whether the slot of this ended sequence is worth keeping, and sound.

        The slot of a sequence with a token has no NaN: the token was chosen from numbers that
        depend on the whole slot.
        """
        return (
            self._keep_s > 0
            and bool(sequence.request.reuse_key)
            and sequence.finished is not None
            and sequence.generated > 0
            and sequence.cached >= LEAST_TOKENS
        )

    def keep(self, sequence: Sequence, slot: int) -> list[KeptPrefix]:
        """Keep a slot; drop and return the entries that it makes redundant."""
        kept = KeptPrefix(key_of(sequence), sequence.tokens[: sequence.cached], slot)
        useless = [
            each
            for each in self._entries
            if each.key == kept.key and shared_length(each.tokens, kept.tokens) == len(each.tokens)
        ]
        for each in useless:
            self._entries.remove(each)
        self._entries.append(kept)
        return useless

    def find(self, sequence: Sequence) -> tuple[KeptPrefix, int] | None:
        """Return the entry with the longest common prefix, and its length; None if too short."""
        key = key_of(sequence)
        if not sequence.request.reuse_key:
            return None
        found = [
            (shared_length(each.tokens, sequence.tokens), place)
            for place, each in enumerate(self._entries)
            if each.key == key
        ]
        length, place = max(found, default=(0, 0))
        return (self._entries[place], length) if length >= LEAST_TOKENS else None

    def drop(self, entry: KeptPrefix) -> None:
        """Drop the entry."""
        self._entries.remove(entry)

    def oldest(self) -> KeptPrefix | None:
        """Return the oldest entry, None if there is none."""
        return self._entries[0] if self._entries else None

    def expired(self) -> list[KeptPrefix]:
        """Return the expired entries."""
        before = time.monotonic() - self._keep_s
        return [each for each in self._entries if each.since_s <= before]

    def wait_s(self) -> float | None:
        """Return the seconds until the next entry expires; None without entries."""
        if not self._entries:
            return None
        return max(0.0, self._entries[0].since_s + self._keep_s - time.monotonic())


def key_of(sequence: Sequence) -> Hashable:
    """Return the key of a request's prefixes: its signer's salt and its adapter.

    The adapter's file is part of it, because an id may be registered again with another file.
    """
    adapter = sequence.adapter
    file = None if adapter is None else adapter.file
    return sequence.request.reuse_key, sequence.request.adapter_id, file


def shared_length(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
