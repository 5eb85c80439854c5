"""The memory of this process: zeroed pages on demand, what is resident, what malloc gives back.

Owns the calls to the operating system that keep the resident memory near what is in use. Each does
nothing where the system has no such call (the figures are then 0).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

# mallopt(3). Each thread else gets a heap of its own, which keeps what that thread once freed.
_M_ARENA_MAX: Final = -8
_HEAPS: Final = 2


def zeros(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of zeros whose pages take memory once they are written.

    ``torch.zeros`` writes them all at once: a cache for 32 streams would take 2.8 GB before the
    first request.
    """
    import torch

    count = math.prod(size)
    if not count:
        return torch.zeros(tuple(size), dtype=dtype)
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(tuple(size))


def resident_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process has resident, its mapped files included; 0 if unknown."""
    try:
        pages = int((root / "proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def share_heaps() -> None:
    """Let all threads share two heaps of malloc, so that what one freed serves another."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)


def return_freed() -> None:
    """Give the pages that malloc keeps of what was freed back to the system."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
