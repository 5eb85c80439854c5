"""What fits in memory, decided once at start: slots, lanes, adapters; and how many threads run.

Arithmetic over sizes, and one look at what is free. Admission follows from it: the engine never
allocates beyond this plan while it serves, so a request waits or is refused instead of the process
being killed. Counted are weights, caches and adapters; a step's activations are small beside them.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from viz.basemodel.shape import LlamaShape
from viz.engine.embedded.loaded_adapter import RANK_BUCKETS, adapter_bytes
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ModelUnavailable

_USUAL_RANK = 16
_FILE_ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes of one number of the weights, the cache and the adapters; whether lanes copy these."""

    weight: int
    cache: int
    adapter: int
    lanes: bool


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How much of everything; ``capacity`` is tokens a slot, ``lane_bytes`` None without lanes.

    ``all_streams_bytes`` is the memory with which as many streams fit as were asked for.
    """

    slots: int
    capacity: int
    resident_adapters: int
    resident_bytes: int
    lane_bytes: int | None
    all_streams_bytes: int


def plan(
    shape: LlamaShape, settings: EngineSettings, widths: Widths, memory_bytes: int
) -> MemoryPlan:
    """Divide ``memory_bytes``: weights first, then slots (at most half), then adapters.

    Any one adapter fits, also of the largest rank, and beside what is in memory the file that is
    being read. Raises ModelUnavailable when not even one stream with such an adapter fits.
    """
    capacity = min(settings.context_tokens, shape.context_tokens)
    kept = 2 * shape.layers * shape.kv_heads * shape.head_dim * capacity * widths.cache
    largest = adapter_bytes(shape, RANK_BUCKETS[-1], widths.adapter)
    lane = adapter_bytes(shape, _USUAL_RANK, widths.adapter) if widths.lanes else 0
    arriving = adapter_bytes(shape, RANK_BUCKETS[-1], _FILE_ITEM_BYTES) + largest
    fixed = _weight_bytes(shape, widths) + arriving + (2 if widths.lanes else 1) * largest
    left, each = memory_bytes - fixed, kept + lane
    slots = min(settings.max_streams, left // 2 // each)
    if slots < 1:
        raise ModelUnavailable(
            f"the engine needs {(fixed + 2 * each) >> 20} MiB and has "
            f"{max(memory_bytes, 0) >> 20}: lower context_tokens or raise max_memory_mib"
        )
    left -= slots * each
    lanes = None
    if widths.lanes:
        # Room for as many as can be in use at once, but at most half of what is left.
        more = max(0, min(slots * (largest - lane) - largest, left // 2))
        lanes = slots * lane + largest + more
        left -= more
    resident_adapters = max(settings.resident_adapters, slots)
    enough = fixed + 2 * settings.max_streams * each
    return MemoryPlan(slots, capacity, resident_adapters, left + largest, lanes, enough)


def _weight_bytes(shape: LlamaShape, widths: Widths) -> int:
    """The embedding is looked up as it was stored, in bf16; a tied head is a second copy of it."""
    sizes = {name: math.prod(size) for name, size in shape.tensors().items()}
    embedding = sizes.pop("model.embed_tokens.weight")
    return (sum(sizes.values()) + embedding * shape.tied) * widths.weight + 2 * embedding


def available_bytes(root: Path = Path("/")) -> int:
    """Return the memory that can be had without swapping, or being killed by a control group.

    Linux's own estimate, and the room in this process' control group and those above it.
    """
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvail")))
    except (OSError, StopIteration, IndexError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    rooms = (_room(group, *_MEMORY[version]) for version, group in _groups(root, "memory"))
    return min([free, *itertools.chain.from_iterable(rooms)])


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many threads can run at once: the processors allowed, or a control group's share.

    A thread more than those makes all others wait for it wherever they meet.
    """
    shares = itertools.chain.from_iterable(_share(group) for _, group in _groups(root, "cpu"))
    return max(1, int(min([len(os.sched_getaffinity(0)), *shares])))


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each control group that may bound this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if number == "0":
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        place = Path(own.lstrip("/"))
        # In a container the path may be the host's: of it, only the mount's root is then there.
        for group in (place, *place.parents):
            yield version, mount / group


_MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def _share(group: Path) -> Iterator[float]:
    """Yield how many processors' time a group may use, where it is bounded."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text("ascii") for name in names).split()
            if int(quota) > 0:  # -1 is no bound, as is "max"
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def _room(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    """Yield a group's bound less what it uses, cached files that nobody reads aside."""
    try:
        bound = (group / limit).read_text("ascii").strip()
        if bound == "max":
            return
        used = int((group / usage).read_text("ascii"))
        fields = dict(
            line.split() for line in (group / "memory.stat").read_text("ascii").splitlines()
        )
        yield max(0, int(bound) - used + int(fields.get(cache, 0)))
    except (OSError, ValueError):
        return
