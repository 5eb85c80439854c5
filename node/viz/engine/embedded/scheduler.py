"""Assign cache slots and adapters to sequences, in the order in which they arrived.

Owns the sequences that have not ended, the slots and adapters they hold, and the order in which
both are assigned. Everything except ``loaded`` runs on the generation thread. Invariants:

- A sequence holds an adapter exactly while it holds a slot.
- Only a sequence that may run gets a slot.
- The sequence that waited longest is served first. If it waits for memory, only requests for the
  base model may pass it.
- A paused sequence loses its slot only after its grace time, and only to one that needs it.
- A slot that is kept for a next request is free for any sequence that needs one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from viz.domain.units import BASE_MODEL, AdapterId
from viz.engine.embedded.prefix_cache import (
    LEAST_TOKENS,
    KeptPrefix,
    PrefixCache,
    key_of,
    shared_length,
)
from viz.errors import EngineError

if TYPE_CHECKING:
    from viz.engine.embedded.adapter_pool import AdapterPool
    from viz.engine.embedded.kv_cache import KvCache
    from viz.engine.embedded.sequence import Sequence
    from viz.engine.embedded.settings import EngineSettings


class Scheduler:
    """Schedules the sequences of one slot cache that have not ended.

    ``packed``: a step computes every row up to the highest slot in use. ``loaded`` is called on
    the loader's thread when a requested adapter is in memory, or with the error if it could not be
    loaded.
    """

    def __init__(
        self,
        cache: KvCache,
        pool: AdapterPool,
        settings: EngineSettings,
        counts: Counter[str],
        loaded: Callable[[AdapterId, EngineError | None], None],
        *,
        packed: bool,
    ) -> None:
        self._cache, self._pool, self._packed = cache, pool, packed
        self._grace_s, self._counts, self._loaded = settings.grace_s, counts, loaded
        self.prefixes = PrefixCache(settings.prefix_s)
        self.live: list[Sequence] = []

    def without_slot(self) -> list[Sequence]:
        """Return the sequences without a slot, in the order of arrival."""
        return [sequence for sequence in self.live if sequence.slot is None]

    def wait_s(self) -> float | None:
        """Return how long the loop may sleep; None if it need not wake before an event.

        While a sequence that may run has no slot, the loop must notice when a paused one's grace
        time has passed. It must also wake when a kept slot expires.
        """
        grace = self._grace_s / 4 if any(s.may_run() for s in self.without_slot()) else None
        times = [each for each in (grace, self.prefixes.wait_s()) if each is not None]
        return min(times, default=None)

    def fill(self) -> None:
        """Give free slots to waiting sequences; request the adapters that are not in memory.

        A waiting sequence counts for one slot, also while its adapter is being loaded. So no more
        adapters are requested than there are slots, and they do not evict each other.
        """
        for kept in self.prefixes.expired():
            self._drop(kept)
        # Only as many as can get a slot now: a free or kept one, or that of a sequence paused too
        # long.
        waiting = [sequence for sequence in self.without_slot() if sequence.may_run()]
        requested: set[AdapterId] = set()
        full = False
        slots = self._cache.free + len(self.prefixes) + len(self._overdue())
        for sequence in waiting[:slots]:
            adapter_id = sequence.request.adapter_id
            # After one adapter finds no memory, later ones are not tried: small adapters could
            # pass a large one for ever. The base model needs no adapter and may pass.
            if adapter_id != BASE_MODEL:
                sequence.adapter = None if full else self._pool.acquire(adapter_id)
                if sequence.adapter is None:
                    full = full or not self._request_load(adapter_id, requested)
                    continue
            self._place(sequence)

    def end(self, sequence: Sequence) -> None:
        """Remove the sequence, and free its adapter and its slot, which may be kept."""
        slot = sequence.slot
        if slot is not None and self.prefixes.may_keep(sequence):
            if self._packed and (higher := self._cache.higher_free(slot)) is not None:
                self._cache.move(slot, higher, sequence.cached)
                slot = higher
            for useless in self.prefixes.keep(sequence, slot):
                self._cache.give(useless.slot)
            self._release(sequence)
        elif slot is not None:
            self._free_slot(sequence)
        self.live.remove(sequence)

    def _place(self, sequence: Sequence) -> None:
        """Give the sequence a slot, with as much of its tokens as is computed already.

        The newest token is always run, to get the logits of the next.
        """
        most = len(sequence.tokens) - 1
        kept, length = self.prefixes.find(sequence) or (None, 0)
        # A chat that goes on needs its old cache no more. If little of it is shared, another chat
        # may still go on with it.
        if kept is not None and (2 * length >= len(kept.tokens) or not self._cache.free):
            self.prefixes.drop(kept)
            sequence.slot = kept.slot
            self._reuse(sequence, min(length, most))
            return
        slot = self._free_one()
        # Looked for only now: freeing a slot may have taken that of a running sequence.
        source, length = (kept.slot, length) if kept else self._running_source(sequence)
        if source is not None:
            self._cache.copy(source, slot, min(length, most))
        sequence.slot = slot
        self._reuse(sequence, min(length, most))

    def _running_source(self, sequence: Sequence) -> tuple[int | None, int]:
        """Return the slot of the running sequence that shares most tokens, and how many."""
        if not sequence.request.reuse_key:
            return None, 0
        key = key_of(sequence)
        found = [
            (shared_length(other.tokens[: other.cached], sequence.tokens), place)
            for place, other in enumerate(self.live)
            if other.slot is not None and key_of(other) == key
        ]
        length, place = max(found, default=(0, 0))
        return (self.live[place].slot, length) if length >= LEAST_TOKENS else (None, 0)

    def _free_one(self) -> int:
        """Return a free slot; if there is none, free the oldest kept, then an overdue one."""
        if not self._cache.free and (oldest := self.prefixes.oldest()) is not None:
            self._drop(oldest)
        if not self._cache.free:
            self._reclaim(self._overdue()[0])
        return self._cache.take()

    def _reuse(self, sequence: Sequence, length: int) -> None:
        sequence.cached = length
        self._counts["reused_tokens"] += length

    def _drop(self, kept: KeptPrefix) -> None:
        self.prefixes.drop(kept)
        self._cache.give(kept.slot)

    def pack(self, batch: list[Sequence]) -> None:
        """Move sequences to lower free slots.

        The torch path runs every row up to the highest slot in use, so gaps cost time.
        """
        for sequence in sorted(batch, key=lambda s: -(s.slot or 0)):
            assert sequence.slot is not None
            lower = self._cache.lower_free(sequence.slot)
            if lower is None:
                return
            self._cache.move(sequence.slot, lower, sequence.cached)
            sequence.slot = lower

    def copy_from_sibling(self, sequence: Sequence) -> bool:
        """Copy what a sibling has computed of the same prompt; return whether to wait for the rest.

        All choices of one request (its ``n``) hold the same prompt object: they are siblings if
        they also have the same adapter, because the cache depends on it. The sibling that is
        furthest computes the prompt. The others copy all but the last token, and run that token
        themselves to get the logits of their first token.
        """
        # Of siblings that are equally far, the one that came first computes.
        shared = len(sequence.request.prompt) - 1
        if sequence.cached >= shared or sequence.slot is None:
            return False
        places = {
            (other.cached, -place): other
            for place, other in enumerate(self.live)
            if other.slot is not None
            and other.request.prompt is sequence.request.prompt
            and other.adapter is sequence.adapter
        }
        foremost = places[max(places)]
        if foremost is sequence or foremost.slot is None:
            return False
        if foremost.cached < shared and foremost.may_run():
            return True
        known = min(foremost.cached, shared)
        if known > sequence.cached:
            self._cache.copy(foremost.slot, sequence.slot, known)
            self._counts["shared_tokens"] += known - sequence.cached
            sequence.cached = known
        return False

    def _request_load(self, adapter_id: AdapterId, requested: set[AdapterId]) -> bool:
        """Start loading an adapter; return False if adapters in use leave no memory for it."""
        while not self._pool.load(adapter_id, self._loaded, requested):
            # An adapter in use is never evicted: first take the slot, and so the adapter, of a
            # paused sequence.
            holders = [sequence for sequence in self._overdue() if sequence.adapter is not None]
            if not holders:
                return False
            self._reclaim(holders[0])
        requested.add(adapter_id)
        return True

    def _overdue(self) -> list[Sequence]:
        """Return the sequences with a slot whose grace time has passed, paused longest first."""
        before = time.monotonic() - self._grace_s
        paused = [
            (sequence.paused_since, place, sequence)
            for place, sequence in enumerate(self.live)
            if sequence.slot is not None and sequence.paused_since is not None
        ]
        return [sequence for since, _, sequence in sorted(paused) if since <= before]

    def _reclaim(self, sequence: Sequence) -> None:
        """Take the slot of a paused sequence; when it continues, it computes its cache again."""
        self._free_slot(sequence)
        self._counts["reclaimed_slots"] += 1

    def _free_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._cache.give(sequence.slot)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.adapter is not None:
            self._pool.release(sequence.adapter)
        sequence.slot, sequence.adapter, sequence.cached = None, None, 0
