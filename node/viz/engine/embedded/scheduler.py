"""Who holds a slot and an adapter, and whose turn is next.

Owns the sequences that have not ended, the slots and adapters they hold, and the order in which
both are given out. Runs on the generation thread, but for ``loaded``.

Invariants: a sequence holds an adapter exactly while it holds a slot; only a sequence that may run
is given a slot; the longest waiting is served first, and one that waits for memory is passed only
by requests for the base model; a paused sequence loses its slot only after its grace time, to one
that needs it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from viz.domain.units import BASE_MODEL, AdapterId
from viz.errors import EngineError

if TYPE_CHECKING:
    from viz.engine.embedded.adapter_pool import AdapterPool
    from viz.engine.embedded.kv_cache import KvCache
    from viz.engine.embedded.sequence import Sequence


class Scheduler:
    """The sequences of one slot cache that have not ended, in the order they came.

    ``loaded`` is called on the loader's thread when a requested adapter is in memory, or with the
    error that kept it out.
    """

    def __init__(
        self,
        cache: KvCache,
        store: AdapterPool,
        grace_s: float,
        counts: Counter[str],
        loaded: Callable[[AdapterId, EngineError | None], None],
    ) -> None:
        self._cache, self._store = cache, store
        self._grace_s, self._counts, self._loaded = grace_s, counts, loaded
        self.live: list[Sequence] = []

    def unseated(self) -> list[Sequence]:
        """Return the sequences without a slot, in the order they came."""
        return [sequence for sequence in self.live if sequence.slot is None]

    def patience_s(self) -> float | None:
        """Return how long the loop may sleep before a grace time can pass; None if none can."""
        return self._grace_s / 4 if any(s.may_run() for s in self.unseated()) else None

    def fill(self) -> None:
        """Give free slots to waiting sequences; request the adapters that are not in memory.

        A waiting sequence counts for one slot, also while its adapter is being loaded: no more
        adapters are requested than there are slots, so that they do not evict one another.
        """
        # As many as can have a slot now: a free one, or that of a sequence paused too long.
        waiting = [sequence for sequence in self.unseated() if sequence.may_run()]
        called: set[AdapterId] = set()
        full = False
        for sequence in waiting[: self._cache.free + len(self._overdue())]:
            adapter_id = sequence.request.adapter_id
            # Once one adapter finds no memory, later ones are not tried: a small one would pass a
            # large one for ever. The base model needs no adapter and may pass.
            if adapter_id != BASE_MODEL:
                sequence.adapter = None if full else self._store.acquire(adapter_id)
                if sequence.adapter is None:
                    full = full or not self._call(adapter_id, called)
                    continue
            if not self._cache.free:
                self._reclaim(self._overdue()[0])
            sequence.slot, sequence.cached = self._cache.take(), 0

    def end(self, sequence: Sequence) -> None:
        """Take back what the sequence holds and forget it."""
        if sequence.slot is not None:
            self._unseat(sequence)
        self.live.remove(sequence)

    def pack(self, batch: list[Sequence]) -> None:
        """Move sequences to lower slots, so that a step runs no more rows than it must."""
        for sequence in sorted(batch, key=lambda s: -(s.slot or 0)):
            assert sequence.slot is not None
            lower = self._cache.lower_free(sequence.slot)
            if lower is None:
                return
            self._cache.move(sequence.slot, lower, sequence.cached)
            sequence.slot = lower

    def waits_for_sibling(self, sequence: Sequence) -> bool:
        """Copy what a sibling has cached of the same prompt; say whether to wait for the rest.

        The choices of one answer hold one prompt object. The furthest of them computes it, the
        others copy all but its last token: each runs that itself, for the logits of its first
        token. The cache depends on the adapter too, so only the same adapter is a sibling.
        """
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

    def _call(self, adapter_id: AdapterId, called: set[AdapterId]) -> bool:
        """Start loading an adapter; return False while those in use leave no memory for it."""
        while not self._store.load(adapter_id, self._loaded, called):
            # An adapter in use is never evicted, so a paused sequence gives up its own first.
            holders = [sequence for sequence in self._overdue() if sequence.adapter is not None]
            if not holders:
                return False
            self._reclaim(holders[0])
        called.add(adapter_id)
        return True

    def _overdue(self) -> list[Sequence]:
        """Return the seated sequences whose grace time has passed, paused longest first."""
        before = time.monotonic() - self._grace_s
        paused = [
            (sequence.paused_since, place, sequence)
            for place, sequence in enumerate(self.live)
            if sequence.slot is not None and sequence.paused_since is not None
        ]
        return [sequence for since, _, sequence in sorted(paused) if since <= before]

    def _reclaim(self, sequence: Sequence) -> None:
        """Take the slot of a paused sequence; it computes its cache again when it goes on."""
        self._unseat(sequence)
        self._counts["reclaimed_slots"] += 1

    def _unseat(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._cache.give(sequence.slot)
        if sequence.adapter is not None:
            self._store.release(sequence.adapter)
        sequence.slot, sequence.adapter, sequence.cached = None, None, 0
