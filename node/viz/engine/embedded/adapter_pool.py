"""Which adapters exist, which are in memory, and how they get there.

Owns the register (id -> file), residency with least-recently-used eviction, and reading on one
thread of its own, off the generation thread. Does not know batches. Invariants: a file is checked
whole each time it is loaded and must not have changed since it was registered; an adapter in use
is never evicted; what is in memory or on its way there stays within ``max_bytes``, and the lanes
of those in use within ``max_lane_bytes``: who asks for more waits. One adapter is read at a time.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viz.basemodel.adapter_file import read_adapter
from viz.domain.units import AdapterId
from viz.engine.embedded.loaded_adapter import RANK_BUCKETS, LoadedAdapter, adapter_bytes, stack
from viz.errors import EngineError, InvalidAdapterFile

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase

_Done = Callable[[AdapterId, EngineError | None], None]
_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    path: Path
    identity: _Identity
    rank: int


class AdapterPool:
    """The registered adapters of one base. Thread-safe; loads happen on its own thread.

    ``max_lane_bytes`` bounds the copies that each user of an adapter costs beside the batch; None
    where it costs none. Both bounds must hold an adapter of the largest rank.
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
        # Bytes: in memory or on their way, one that was removed in use included; and of lanes.
        self._held = self._lanes = 0
        self._lock = threading.Lock()
        self._loader = _loader()
        self.loads = self.evictions = 0

    def register(self, adapter_id: AdapterId, path: Path) -> None:
        """Check the whole file and make it usable; blocking. Raises InvalidAdapterFile.

        It stays in memory where adapters not in use can give way to it, else it is loaded later.
        """
        try:
            self._loader.submit(self._register, adapter_id, path).result()
        except CancelledError as error:
            raise EngineError(f"adapter {adapter_id} was not read: the engine closes") from error

    def remove(self, adapter_id: AdapterId) -> None:
        """Forget the adapter; sequences that already run with it finish. Idempotent."""
        with self._lock:
            self._files.pop(adapter_id, None)
            self._forget(adapter_id)

    def registered(self) -> frozenset[AdapterId]:
        with self._lock:
            return frozenset(self._files)

    @property
    def resident_count(self) -> int:
        return len(self._resident)

    @property
    def held_bytes(self) -> int:
        return self._held

    def acquire(self, adapter_id: AdapterId) -> LoadedAdapter | None:
        """Return the adapter if it is in memory and has room for a lane, in use until released."""
        with self._lock:
            found = self._resident.get(adapter_id)
            if found is None or not self._has_lane(found.rank):
                return None
            self._resident.move_to_end(adapter_id)
            self._users[found] += 1
            self._lanes += self._sizes[found.rank]
            return found

    def release(self, adapter: LoadedAdapter) -> None:
        with self._lock:
            self._lanes -= self._sizes[adapter.rank]
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter]
                if self._resident.get(adapter.adapter_id) is not adapter:
                    self._held -= self._sizes[adapter.rank]

    def load(
        self, adapter_id: AdapterId, done: _Done, spared: Collection[AdapterId] = frozenset()
    ) -> bool:
        """Bring the adapter into memory on the loader thread, then call ``done`` there.

        False, and nothing is done, while those in use and ``spared`` leave no room for it.
        """
        error: EngineError | None = None
        with self._lock:
            file = self._files.get(adapter_id)
            if file is None:
                error = EngineError(f"adapter {adapter_id} was removed while it was asked for")
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
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _register(self, adapter_id: AdapterId, path: Path) -> None:
        resident, identity = self._read(adapter_id, path)
        with self._lock:
            self._files[adapter_id] = _File(path, identity, resident.rank)
            self._forget(adapter_id)
            if self._make_room(self._sizes[resident.rank]):
                self._keep(resident)

    def _load(self, adapter_id: AdapterId, file: _File, done: _Done) -> None:
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
            # Another file may have been registered meanwhile: what was read is then old.
            if self._files.get(adapter_id) is not file:
                error = None
            elif resident is not None:
                self._forget(adapter_id)
                self._keep(resident)
                self.loads += 1
        done(adapter_id, error)

    def _has_lane(self, rank: int) -> bool:
        return (
            self._max_lane_bytes is None or self._lanes + self._sizes[rank] <= self._max_lane_bytes
        )

    def _make_room(self, size: int, spared: Collection[AdapterId] = frozenset()) -> bool:
        """Evict what was used longest ago until ``size`` fits; nothing, if it cannot fit."""
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
        """Drop the adapter; while it is in use, its memory counts on."""
        dropped = self._resident.pop(adapter_id, None)
        if dropped is not None and dropped not in self._users:
            self._held -= self._sizes[dropped.rank]

    def _read(
        self, adapter_id: AdapterId, path: Path, known: _Identity | None = None
    ) -> tuple[LoadedAdapter, _Identity]:
        """Return the checked adapter and its file's identity, equal to ``known`` if given.

        Identity is device, inode, size and time of change, looked at before and after reading. A
        hash would say more, for 8 ms of the 20 that a load of 10 MB may take.
        """
        identity = _identity(path)
        if known is not None and identity != known:
            raise InvalidAdapterFile(f"{path.name} changed after it was registered")
        base = self._base
        weights = read_adapter(path, base.shape, base.digest, max_rank=RANK_BUCKETS[-1])
        if _identity(path) != identity:
            raise InvalidAdapterFile(f"{path.name} changed while it was read")
        return stack(adapter_id, weights, base.shape, self._dtype), identity


def _loader() -> ThreadPoolExecutor:
    """Return the one thread that reads adapters, which does torch's work for it alone.

    Laying an adapter out is a hundred small steps. Shared with torch's other threads, each waits
    for processors that are busy serving: half a second in all instead of 15 ms.
    """
    import torch

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes the number over when it first asks

    loader = ThreadPoolExecutor(1, thread_name_prefix="viz-adapters")
    usual = torch.get_num_threads()
    loader.submit(alone).result()
    torch.set_num_threads(usual)  # for this thread, and for those that have not asked yet
    return loader


def _identity(path: Path) -> _Identity:
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidAdapterFile(f"{path.name} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
