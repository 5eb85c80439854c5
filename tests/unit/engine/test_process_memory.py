"""Memory that is taken when it is written, and the figures of it."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import torch

from viz.basemodel.source import LoadedBase
from viz.engine.embedded.kv_cache import KvCache
from viz.engine.embedded.process_memory import (
    clear,
    resident_bytes,
    return_freed,
    return_libraries,
    share_heaps,
    zeros,
)

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


def test_a_freed_slot_gives_its_memory_back(base: LoadedBase) -> None:
    """What streams took is not held by a node that is idle again; other slots keep theirs."""
    shape = base.shape
    number = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    cache = KvCache(shape, slots=2, capacity=200 * MIB // number // 2, dtype=torch.float32)
    first, second = cache.take(), cache.take()
    for plane in (cache.keys, cache.values):
        plane[:] = float("nan")
    before = resident_bytes()
    cache.give(first)
    assert before - resident_bytes() > 90 * MIB
    for plane in (cache.keys, cache.values):
        assert not plane[:, first].isnan().any()
        assert plane[:, second].isnan().all()


def test_only_the_part_is_cleared_where_pages_are_shared() -> None:
    """A slot's bounds need not be those of pages: a neighbour's numbers stay."""
    whole = zeros((5, 3, 333, 7), torch.float32)
    whole[:] = 1.0
    clear(whole[2, 1])
    clear(whole[4, 2, :2])
    assert not whole[2, 1].any() and not whole[4, 2, :2].any()
    assert whole.sum() == whole.numel() - whole[2, 1].numel() - whole[4, 2, :2].numel()


def test_library_pages_are_returned_and_come_back(tmp_path: Path) -> None:
    """What a program file's mapping holds is the same after its pages were returned."""
    text = bytes(range(256)) * 4096
    path = tmp_path / "text"
    path.write_bytes(text)
    with path.open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    written = mmap.mmap(-1, len(text), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    written[:] = text
    assert held[:] == text
    assert mapped_kib(path) == len(text) >> 10
    return_libraries()
    assert mapped_kib(path) < len(text) >> 10
    assert held[:] == written[:] == text


def test_written_pages_of_a_file_are_kept(tmp_path: Path) -> None:
    """The linker writes to a library's tables and then locks them: they must never be returned."""
    path = tmp_path / "text"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with path.open("rb") as file:
        held = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    held[:5] = b"moved"
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ) == 0
    return_libraries()
    assert held[:5] == b"moved"


def mapped_kib(path: Path) -> int:
    """Return the resident KiB of a file's mapping."""
    maps = Path("/proc/self/smaps").read_text("utf-8")
    found = re.search(rf"{re.escape(str(path))}\n(?:[A-Z].*\n)*?Rss: +(\d+) kB", maps)
    assert found is not None
    return int(found[1])


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
    return_libraries(tmp_path)
    share_heaps()
    return_freed()
