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
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

# See mallopt(3). By default each thread gets its own heap, which keeps memory that it freed.
_M_ARENA_MAX: Final = -8
_HEAPS: Final = 2
# See madvise(2) and proc_pid_smaps(5). Writable mappings are never touched.
_MADV_DONTNEED: Final = 4
_UNWRITTEN: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r-[-x]p \S+ \S+ [1-9]\d* +\S.*\n(?:[A-Z].*\n)*?Anonymous: +0 kB$",
    re.MULTILINE,
)


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
    with contextlib.suppress(OSError, AttributeError):  # a system without huge pages
        # One written number would take 2 MiB.
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(tuple(size))


def clear(part: torch.Tensor) -> None:
    """Fill a contiguous part of a tensor of ``zeros`` with zeros, and return its whole pages.

    Never use it for other tensors: pages that belong to a file or to malloc must not be returned.
    """
    import torch

    data, begin = part.view(-1).view(torch.uint8), part.data_ptr()
    page = os.sysconf("SC_PAGE_SIZE")
    first = begin + -begin % page
    last = begin + len(data) - (begin + len(data)) % page
    if first >= last or not _return_pages(first, last):
        data.zero_()
        return
    data[: first - begin] = 0
    data[last - begin :] = 0


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


def return_libraries(root: Path = Path("/")) -> None:
    """Return the pages of program files that this process mapped and never wrote.

    Importing torch touches 250 MB of libraries, most of them for GPUs, and an engine on a CPU uses
    a tenth. What is used again is mapped again from the system's cache of the file, or read.
    """
    try:
        maps = (root / "proc/self/smaps").read_text("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return
    for first, last in _unwritten(maps):
        _return_pages(first, last)


def _unwritten(maps: str) -> Iterator[tuple[int, int]]:
    """Yield the address ranges of private, unwritable file mappings without a page of our own."""
    for found in _UNWRITTEN.finditer(maps):
        yield int(found[1], 16), int(found[2], 16)


def _return_pages(first: int, last: int) -> bool:
    """Return the pages from one address to another; what is read there next comes from the file.

    Without a file it is zeros.
    """
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # not Linux
        return False
    size = ctypes.c_size_t(last - first)
    return bool(advise(ctypes.c_void_p(first), size, _MADV_DONTNEED) == 0)
