"""Keep this process' resident memory close to the memory in use.

Owns the calls to the operating system for this. If a system does not have such a call, the function
does nothing, and returns 0 if it returns a number.
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

# See mallopt(3). By default each thread gets its own heap, which keeps memory that it freed.
_M_ARENA_MAX: Final = -8
_HEAPS: Final = 2


def zeros(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of zeros whose pages take memory only after they are written.

    ``torch.zeros`` writes all pages: a cache for 32 streams would take 2.8 GB before the first
    request.
    """
    import torch

    count = math.prod(size)
    if not count:
        return torch.zeros(tuple(size), dtype=dtype)
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(tuple(size))


def resident_bytes(root: Path = Path("/")) -> int:
    """Return this process' resident memory in bytes, with mapped files; 0 if unknown."""
    try:
        pages = int((root / "proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def share_heaps() -> None:
    """Let all threads share two heaps of malloc, so that one can reuse what another freed."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)


def return_freed() -> None:
    """Return the pages of freed memory, which malloc keeps, to the system."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
