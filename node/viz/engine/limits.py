"""What fits in memory: slots, lanes and resident adapters, decided once at start.

Arithmetic over sizes, and one look at what is free. Admission follows from it: the engine never
allocates beyond this plan while it serves, so it refuses with EngineOverloaded instead of being
killed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from viz.basemodel.shape import LlamaShape
from viz.engine.settings import EngineSettings
from viz.errors import ModelUnavailable

_LANE_RANK = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything; ``capacity`` is tokens a slot."""

    slots: int
    capacity: int
    resident_adapters: int
    resident_bytes: int


def plan(shape: LlamaShape, settings: EngineSettings, item_bytes: int, memory_bytes: int) -> Plan:
    """Divide ``memory_bytes``: weights first, then slots (at most half), then resident adapters.

    Raises ModelUnavailable when not even one stream fits.
    """
    weights = sum(math.prod(size) for size in shape.tensors().values()) * item_bytes
    capacity = min(settings.context_tokens, shape.context_tokens)
    keys_and_values = 2 * shape.layers * shape.kv_heads * shape.head_dim * capacity * item_bytes
    lane = adapter_bytes(shape, _LANE_RANK, item_bytes)
    left = memory_bytes - weights
    slots = min(settings.max_streams, left // 2 // (keys_and_values + lane))
    if slots < 1:
        needed = (weights + 2 * (keys_and_values + lane)) >> 20
        raise ModelUnavailable(
            f"the engine needs {needed} MiB and has {memory_bytes >> 20}: lower context_tokens or "
            "raise the memory budget"
        )
    resident = left - slots * (keys_and_values + lane)
    return Plan(slots, capacity, max(settings.resident_adapters, slots), resident)


def available_bytes() -> int:
    """Return the memory that can be had without swapping (Linux's own estimate)."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return int(kib) * 1024


def adapter_bytes(shape: LlamaShape, rank: int, item_bytes: int) -> int:
    """Return the size of an adapter of all linear layers at ``rank``."""
    return sum(rank * (out + into) for _, (out, into) in shape.modules()) * item_bytes
