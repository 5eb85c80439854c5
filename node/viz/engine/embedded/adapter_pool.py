"""Register adapters, load them into memory, and evict the least recently used.

Owns the register (id -> file), the adapters in memory, and the loader thread, which reads one
adapter at a time. Invariants: a file is checked completely each time it is loaded, and must not
have changed since it was registered; an adapter in use is never evicted; adapters that are loaded
or being loaded stay within ``max_bytes``, and the lanes (copies) of those in use within
``max_lane_bytes``. A request for more must wait.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from viz.basemodel.adapter_file import read_adapter
from viz.domain.units import AdapterId
from viz.engine.embedded.loaded_adapter import RANK_BUCKETS, LoadedAdapter, adapter_bytes, stack
from viz.errors import EngineError, InvalidAdapterFile

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase

_OnLoaded = Callable[[AdapterId, EngineError | None], None]
_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    path: Path
    identity: _Identity
    rank: int


class AdapterPool:
    """The registered adapters of one base model. Thread-safe; loads run on the loader thread.

    ``max_lane_bytes`` bounds the copies that the torch path makes for each sequence with an
    adapter; None if there are none. An adapter of the largest rank must fit both bounds.
    """

    def __init__(
        self,
        base: LoadedBase,
        dtype: torch.dtype,
        *,
        max_resident: int,
        max_bytes: int,
        max_lane_bytes: int | None = None,
    ) -> None:
        self._base, self._dtype = base, dtype
        self._max_resident, self._max_bytes = max_resident, max_bytes
        self._max_lane_bytes = max_lane_bytes
        self._sizes = {
            rank: adapter_bytes(base.shape, rank, dtype.itemsize) for rank in RANK_BUCKETS
        }
        self._files: dict[AdapterId, _File] = {}
        self._resident: OrderedDict[AdapterId, LoadedAdapter] = OrderedDict()
        self._users: Counter[LoadedAdapter] = Counter()
        self._loading: dict[AdapterId, int] = {}
        # In bytes. _held: adapters in memory or being loaded, and removed ones that are still in
        # use. _lane_bytes: the copies of adapters in use.
        self._held = self._lane_bytes = 0
        self._lock = threading.Lock()
        self._loader = _loader()
        self.loads = self.evictions = 0

    def register(self, adapter_id: AdapterId, path: Path) -> None:
        """Check the whole file and make it usable. Blocks.

        It stays in memory if evicting unused adapters makes room; otherwise it is loaded later.
        Raises InvalidAdapterFile, and EngineError if the engine stops meanwhile.
        """
        try:
            self._loader.submit(self._register, adapter_id, path).result()
        except CancelledError as error:
            raise EngineError(f"adapter {adapter_id} was not read: the engine stops") from error

    def remove(self, adapter_id: AdapterId) -> None:
        """Remove the adapter; sequences that already run with it finish. Idempotent."""
        with self._lock:
            self._files.pop(adapter_id, None)
            self._forget(adapter_id)

    def registered(self) -> frozenset[AdapterId]:
        """Return the ids of all registered adapters, in memory or not."""
        with self._lock:
            return frozenset(self._files)

    @property
    def resident_count(self) -> int:
        """The number of adapters in memory."""
        return len(self._resident)

    @property
    def held_bytes(self) -> int:
        """The bytes of all adapters in memory."""
        return self._held

    def acquire(self, adapter_id: AdapterId) -> LoadedAdapter | None:
        """Return the adapter and mark it as in use until ``release``.

        Returns None if it is not in memory, or there is no room for its lane.
        """
        with self._lock:
            found = self._resident.get(adapter_id)
            if found is None or not self._has_lane(found.rank):
                return None
            self._resident.move_to_end(adapter_id)
            self._users[found] += 1
            self._lane_bytes += self._sizes[found.rank]
            return found

    def release(self, adapter: LoadedAdapter) -> None:
        """End one use of an adapter that ``acquire`` returned."""
        with self._lock:
            self._lane_bytes -= self._sizes[adapter.rank]
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter]
                if self._resident.get(adapter.adapter_id) is not adapter:
                    self._held -= self._sizes[adapter.rank]

    def load(
        self, adapter_id: AdapterId, done: _OnLoaded, spared: Collection[AdapterId] = frozenset()
    ) -> bool:
        """Load the adapter on the loader thread, then call ``done`` there.

        Returns False and does nothing if adapters in use and those in ``spared`` leave no room.
        """
        error: EngineError | None = None
        with self._lock:
            file = self._files.get(adapter_id)
            if file is None:
                error = EngineError(f"adapter {adapter_id} was removed while it was requested")
            elif not self._has_lane(file.rank):
                return False
            elif adapter_id in self._loading:
                return True
            elif adapter_id not in self._resident:
                size = self._sizes[file.rank]
                if not self._make_room(size, spared):
                    return False
                self._loading[adapter_id] = size
                self._held += size
                self._loader.submit(self._load, adapter_id, file, done)
                return True
        done(adapter_id, error)
        return True

    def close(self) -> None:
        """Stop loading, and wait for a running load to end. Blocks."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _register(self, adapter_id: AdapterId, path: Path) -> None:
        loaded, identity = self._read(adapter_id, path)
        with self._lock:
            self._files[adapter_id] = _File(path, identity, loaded.rank)
            self._forget(adapter_id)
            if self._make_room(self._sizes[loaded.rank]):
                self._keep(loaded)

    def _load(self, adapter_id: AdapterId, file: _File, done: _OnLoaded) -> None:
        error: EngineError | None = None
        resident: LoadedAdapter | None = None
        try:
            resident, _ = self._read(adapter_id, file.path, file.identity)
        except EngineError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - one bad file must not end the loader
            kind = type(raised).__name__
            error = EngineError(f"adapter {adapter_id} cannot be loaded: {kind}")
        with self._lock:
            self._held -= self._loading.pop(adapter_id)
            # If another file was registered meanwhile, the loaded one is out of date: drop it.
            if self._files.get(adapter_id) is not file:
                error = None
            elif resident is not None:
                self._forget(adapter_id)
                self._keep(resident)
                self.loads += 1
        done(adapter_id, error)

    def _has_lane(self, rank: int) -> bool:
        return (
            self._max_lane_bytes is None
            or self._lane_bytes + self._sizes[rank] <= self._max_lane_bytes
        )

    def _make_room(self, size: int, spared: Collection[AdapterId] = frozenset()) -> bool:
        """Evict the least recently used adapters until ``size`` bytes fit; return whether they do.

        Evicts nothing if they cannot fit.
        """
        idle = [
            resident
            for adapter_id, resident in self._resident.items()
            if resident not in self._users and adapter_id not in spared
        ]
        over_bytes = self._held + size - self._max_bytes
        over_count = len(self._resident) + len(self._loading) + 1 - self._max_resident
        if over_count > len(idle) or over_bytes > sum(self._sizes[each.rank] for each in idle):
            return False
        for resident in idle:
            if over_bytes <= 0 and over_count <= 0:
                break
            self._forget(resident.adapter_id)
            self.evictions += 1
            over_bytes -= self._sizes[resident.rank]
            over_count -= 1
        return True

    def _keep(self, resident: LoadedAdapter) -> None:
        self._resident[resident.adapter_id] = resident
        self._held += self._sizes[resident.rank]

    def _forget(self, adapter_id: AdapterId) -> None:
        """Drop the adapter from memory; while it is in use, its bytes still count."""
        dropped = self._resident.pop(adapter_id, None)
        if dropped is not None and dropped not in self._users:
            self._held -= self._sizes[dropped.rank]

    def _read(
        self, adapter_id: AdapterId, path: Path, known: _Identity | None = None
    ) -> tuple[LoadedAdapter, _Identity]:
        """Return the checked adapter and its file's identity, which must be ``known`` if given.

        The identity is device, inode, size and time of change, read before and after the file. A
        hash would be safer, but takes 8 of the 20 ms in which an adapter of 10 MB must load.
        """
        identity = _identity(path)
        if known is not None and identity != known:
            raise InvalidAdapterFile(f"{path.name} changed after it was registered")
        base = self._base
        weights = read_adapter(path, base.shape, base.digest, max_rank=RANK_BUCKETS[-1])
        if _identity(path) != identity:
            raise InvalidAdapterFile(f"{path.name} changed while it was read")
        loaded = stack(adapter_id, weights, base.shape, self._dtype)
        return replace(loaded, file=identity), identity


def _loader() -> ThreadPoolExecutor:
    """Return the loader thread, in which torch computes without its other threads.

    Arranging an adapter in memory takes a hundred small operations. If torch split each over its
    threads, each would wait for processors that are busy serving: half a second instead of 15 ms.
    """
    import torch

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread adopts the number at its first call

    loader = ThreadPoolExecutor(1, thread_name_prefix="viz-adapters")
    usual = torch.get_num_threads()
    loader.submit(alone).result()
    torch.set_num_threads(usual)  # for this thread, and for threads without a call yet
    return loader


def _identity(path: Path) -> _Identity:
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidAdapterFile(f"{path.name} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
