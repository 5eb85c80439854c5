"""Put many files on the disk together, begin to write a large one before its end.

Owns the calls of Linux that it takes from libc. ``syncfs(2)`` writes back a whole file
system: one commit of its journal and one flush of the device, where ``fsync`` takes one of each for
every file. It is used on file systems that are known to flush in it what ``fsync`` flushes, and to
keep the order of renames over a crash; elsewhere each file is flushed by itself. Blocks the thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from viz.private import sync_to_disk

# statfs(2): ext4, XFS, Btrfs, tmpfs, and overlayfs (containers), which flushes the one below it.
_FLUSHED_WHOLE: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630})
# Fewer are flushed one by one, so that a small blob does not wait for what others write.
_FEW: Final = 4
_AT_ONCE: Final = 4
_SYNC_FILE_RANGE_WRITE: Final = 2
_EARLY_BYTES: Final = 8 * 1024 * 1024


def sync_together(paths: Collection[Path]) -> None:
    """Wait until these files' bytes, or the names in these folders, are on the disk.

    All are on one file system. Raises OSError.
    """
    if len(paths) > _FEW and flushes_whole(folder := next(iter(paths)).parent):
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc().syncfs(handle))
        finally:
            os.close(handle)
        return
    if len(paths) <= 1:
        for path in paths:
            sync_to_disk(path)
        return
    # Several at once, so that the file system commits them together.
    with ThreadPoolExecutor(_AT_ONCE) as syncing:
        list(syncing.map(sync_to_disk, paths))


def flushes_whole(folder: Path) -> bool:
    """Return whether one call flushes the file system of a folder; raise OSError."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    # The first member of struct statfs is the type, in a machine word; the rest is not read.
    room = ctypes.create_string_buffer(512)
    _checked(_libc().statfs(os.fsencode(folder), room))
    return ctypes.c_long.from_buffer(room).value in _FLUSHED_WHOLE


def begin_writing(file: IO[bytes]) -> None:
    """Let the disk begin with what was written to a file; waits for nothing, promises nothing."""
    file.flush()
    if sys.platform.startswith("linux"):
        import ctypes

        whole = ctypes.c_int64(0)
        _libc().sync_file_range(file.fileno(), whole, whole, _SYNC_FILE_RANGE_WRITE)


class EarlyWriter:
    """Writes to a file whose end is flushed later, and lets the disk begin every 8 MiB."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._since = file, 0

    def write(self, data: bytes) -> int:
        """Write the data; raise OSError."""
        self._file.write(data)
        self._since += len(data)
        if self._since >= _EARLY_BYTES:
            begin_writing(self._file)
            self._since = 0
        return len(data)

    def flush(self) -> None:
        """Flush what Python holds; raise OSError."""
        self._file.flush()


def write_whole(handle: int, data: bytes) -> None:
    """Write all of the data to an open file; raise OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def forget(file: IO[bytes], start: int, size: int) -> None:
    """Let the memory that caches a part of a file be used for other bytes.

    What was read for the last time leaves room for what is written next. Bytes that are not on the
    disk yet stay. It is advice: what cannot be forgotten (a pipe) is no error.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_DONTNEED)


@cache
def _libc() -> Any:
    # Not at the top: commands that touch no blob start without it.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
