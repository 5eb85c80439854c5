"""Divide the memory between weights, cache slots and adapters, once at start.

The engine never allocates more than this plan while it serves. So a request waits or is refused,
and the process is not killed for its memory. Weights, caches and adapters are counted; a step's
activations are small in comparison. Also finds how much memory and how many processors are free.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from viz.basemodel.shape import DecoderShape
from viz.engine.embedded.loaded_adapter import RANK_BUCKETS, adapter_bytes
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ModelUnavailable

_USUAL_RANK = 16
_FILE_ITEM_BYTES = 4
_FREE_PART = 0.6


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes per number of the weights, cache and adapters.

    ``lanes``: adapters are copied too. ``embeds_by_head``: a tied head is not a second copy.
    """

    weight: int
    cache: int
    adapter: int
    lanes: bool
    embeds_by_head: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The sizes to allocate; ``capacity`` is in tokens a slot, ``lane_bytes`` None without lanes.

    A lane is a running sequence's copy of its adapter (``viz.engine.embedded.lora_batch``).
    ``all_streams_bytes`` is the memory that ``max_streams`` streams would need.
    """

    slots: int
    capacity: int
    resident_adapters: int
    resident_bytes: int
    lane_bytes: int | None
    all_streams_bytes: int


def plan(
    shape: DecoderShape, settings: EngineSettings, widths: Widths, memory_bytes: int
) -> MemoryPlan:
    """Divide ``memory_bytes``: weights first, then slots (at most half of the rest), then adapters.

    There is always room for one adapter of the largest rank, and for the file that is being read.
    Raises ModelUnavailable if not even one stream with such an adapter fits.
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
        # Room for an adapter of the largest rank in every slot, but at most half of the rest.
        more = max(0, min(slots * (largest - lane) - largest, left // 2))
        lanes = slots * lane + largest + more
        left -= more
    resident_adapters = max(settings.resident_adapters, slots)
    enough = fixed + 2 * settings.max_streams * each
    return MemoryPlan(slots, capacity, resident_adapters, left + largest, lanes, enough)


def _weight_bytes(shape: DecoderShape, widths: Widths) -> int:
    """Return the bytes of all weights.

    The embedding stays in bf16, as it was stored. A tied head is a second copy of it, or its only
    one.
    """
    sizes = {name: math.prod(size) for name, size in shape.tensors().items()}
    embedding = sizes.pop("model.embed_tokens.weight")
    head = embedding * widths.weight if shape.tied else 0
    looked_up = 0 if shape.tied and widths.embeds_by_head else 2 * embedding
    return sum(sizes.values()) * widths.weight + head + looked_up


def usual_bytes() -> int:
    """Return the bytes that engines take together if no bound is set: 60 % of what is free now."""
    return int(available_bytes() * _FREE_PART)


def available_bytes(root: Path = Path("/")) -> int:
    """Return the memory in bytes that is free without swapping and within the control groups.

    The smallest of Linux's own estimate and the free memory of this process' control group and
    its parents.
    """
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvail")))
    except (OSError, StopIteration, IndexError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    rooms = (_room(group, *_MEMORY[version]) for version, group in _groups(root, "memory"))
    return min([free, *itertools.chain.from_iterable(rooms)])


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many threads can run at once: the allowed processors, or a control group's share.

    With one thread more, all others would wait for it at every barrier.
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
        # In a container the path may be the host's. Then only the mount's root exists.
        for group in (place, *place.parents):
            yield version, mount / group


_MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def _share(group: Path) -> Iterator[float]:
    """Yield how many processors a group may use, if it is bounded."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text("ascii") for name in names).split()
            if int(quota) > 0:  # -1 is no bound, as is "max"
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def _room(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    """Yield a group's bound minus its use in bytes, without inactive cached files, if bounded."""
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
