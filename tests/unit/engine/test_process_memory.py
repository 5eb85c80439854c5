"""Memory that is taken when it is written, and the figures of it."""

from __future__ import annotations

from pathlib import Path

import torch

from viz.basemodel.source import LoadedBase
from viz.engine.embedded.kv_cache import KvCache
from viz.engine.embedded.process_memory import resident_bytes, return_freed, share_heaps, zeros

MIB = 1 << 20


def test_a_cache_takes_memory_only_where_it_is_written(base: LoadedBase) -> None:
    """Protects the memory of an idle node: ``torch.zeros`` would have all streams' resident."""
    shape = base.shape
    number = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    before = resident_bytes()
    cache = KvCache(shape, slots=8, capacity=200 * MIB // number // 8, dtype=torch.float32)
    assert cache.keys.nbytes + cache.values.nbytes > 190 * MIB
    assert before > 0 and resident_bytes() - before < 20 * MIB
    cache.keys[:] = 1.0
    assert resident_bytes() - before > 80 * MIB


def test_zeros_are_zero_and_writable() -> None:
    """A masked place of the cache is multiplied, so it must hold a number."""
    for dtype in (torch.float32, torch.bfloat16):
        made = zeros((3, 5), dtype)
        assert made.dtype is dtype and torch.equal(made, torch.zeros(3, 5, dtype=dtype))
        made[1, 2] = 2
        assert made.sum() == 2
    assert zeros((0, 4), torch.float32).shape == (0, 4)


def test_a_system_without_the_figures_is_unknown_not_an_error(tmp_path: Path) -> None:
    """The node starts where /proc is missing; the calls to malloc change nothing that is seen."""
    assert resident_bytes(tmp_path) == 0
    share_heaps()
    return_freed()
