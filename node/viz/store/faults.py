"""Convert the database's errors to errors that tell the operator what to repair.

Owns the five cases that need different repairs: disk full, read-only, busy, failing, damaged.
Invariants: every error contains the database's own message; no error advises to move or remove a
file, because it may hold vouchers that are not claimed yet.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from viz.errors import (
    StoreBusy,
    StoreDamaged,
    StoreDiskFails,
    StoreError,
    StoreFull,
    StoreReadOnly,
)

LEAST_ROOM_BYTES: Final = 4 << 20
"""No new work is accepted below it, so that running requests can still be recorded and claimed."""
_ROOM_READ_EVERY_S: Final = 1.0
_PROBE: Final = bytes(64 << 10)
_BY_PRIMARY_CODE: Final[dict[int, type[StoreError]]] = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_PERM: StoreReadOnly,
    sqlite3.SQLITE_AUTH: StoreReadOnly,
    sqlite3.SQLITE_BUSY: StoreBusy,
    sqlite3.SQLITE_LOCKED: StoreBusy,
    sqlite3.SQLITE_PROTOCOL: StoreBusy,
    sqlite3.SQLITE_IOERR: StoreDiskFails,
    sqlite3.SQLITE_CANTOPEN: StoreDiskFails,
    sqlite3.SQLITE_NOLFS: StoreDiskFails,
    sqlite3.SQLITE_CORRUPT: StoreDamaged,
    sqlite3.SQLITE_NOTADB: StoreDamaged,
}
# PostgreSQL's error codes (its manual, Appendix A): first full codes, then classes of codes.
_BY_SQLSTATE: Final[dict[str, type[StoreError]]] = {
    "53100": StoreFull,
    "25006": StoreReadOnly,
    "58030": StoreDiskFails,
    "XX001": StoreDamaged,
    "XX002": StoreDamaged,
}
_BY_SQLSTATE_CLASS: Final[dict[str, type[StoreError]]] = {
    "53": StoreBusy,
    "55": StoreBusy,
    "57": StoreBusy,
    "08": StoreBusy,
    "40": StoreBusy,
    "42": StoreReadOnly,
    "58": StoreDiskFails,
}
_BY_ERRNO: Final[dict[int, type[StoreError]]] = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EFBIG: StoreFull,
    errno.EROFS: StoreReadOnly,
    errno.EACCES: StoreReadOnly,
    errno.EPERM: StoreReadOnly,
    errno.EIO: StoreDiskFails,
}
_SAYS: Final[dict[type[StoreError], str]] = {
    StoreFull: "the disk that holds the ledger is full ({words}): free space on it. A running node "
    "then continues by itself; start one that has ended again",
    StoreReadOnly: "the ledger cannot be written ({words}): make its folder, its files and its "
    "disk writable for the node's user",
    StoreBusy: "another program has locked the ledger ({words}): close that program",
    StoreDiskFails: "the disk that holds the ledger does not read or write ({words}): check "
    "the disk and the system's log, and keep every file of the ledger",
    StoreDamaged: "the ledger's file is damaged, or is not a ledger ({words}): keep all its files, "
    "they may hold unclaimed vouchers, and restore the latest backup in another data directory "
    "(docs/operating.md says what an older one costs)",
    StoreError: "the ledger refused ({words}): check the database and its log",
}


def fault_of(error: SQLAlchemyError, place: Path | None) -> StoreError:
    """Return the StoreError for a database's error; ``place`` is the file of a SQLite ledger."""
    original = error.orig if isinstance(error, DBAPIError) else None
    words = " ".join(str(original or error).split())[:300]
    kind = _kind(original)
    if place is not None and kind in (StoreDiskFails, StoreError):
        # On a full disk SQLite sometimes reports "disk I/O error" or "unable to open": test it.
        kind = _probed(place) or kind
    return told(kind, words)


def os_fault(error: OSError) -> StoreError:
    """Return the StoreError for an operating system's error on a file of the ledger."""
    kind = _BY_ERRNO.get(error.errno or 0, StoreDiskFails)
    return told(kind, error.strerror or str(error))


def told(kind: type[StoreError], words: str) -> StoreError:
    """Return an error of this class with its advice; ``words`` is the original message."""
    return kind(_SAYS[kind].format(words=words))


class FreeSpace:
    """Checks the free space of the ledger's disk, at most once a second."""

    def __init__(self, place: Path | None) -> None:
        self._folder = None if place is None else place.parent
        self._read_at = float("-inf")
        self._free_bytes = 0

    def require(self) -> None:
        """Raise StoreFull if the free space is below ``LEAST_ROOM_BYTES``."""
        if self._folder is None:
            return
        if time.monotonic() - self._read_at >= _ROOM_READ_EVERY_S:
            try:
                found = os.statvfs(self._folder)
            except OSError as error:
                raise os_fault(error) from error
            self._free_bytes = found.f_bavail * found.f_frsize
            self._read_at = time.monotonic()
        if self._free_bytes < LEAST_ROOM_BYTES:
            raise StoreFull(
                f"the disk that holds the ledger has {self._free_bytes >> 10} KiB left: below "
                f"{LEAST_ROOM_BYTES >> 20} MiB no new work is accepted, so that running requests "
                "can be recorded; try again after the operator has freed space"
            )


def _kind(original: BaseException | None) -> type[StoreError]:
    if isinstance(original, sqlite3.Error):
        # The low byte is SQLite's primary code. Errors of the Python module itself have no code.
        code = getattr(original, "sqlite_errorcode", None)
        return StoreError if code is None else _BY_PRIMARY_CODE.get(code & 0xFF, StoreError)
    state = getattr(original, "sqlstate", None) or ""
    return _BY_SQLSTATE.get(state) or _BY_SQLSTATE_CLASS.get(state[:2], StoreError)


def _probed(place: Path) -> type[StoreError] | None:
    """Return the class of error that a test write beside the ledger meets; None if it succeeds.

    It writes at the offset where the ledger's largest file ends, because a limit on the size of
    files (a quota, EFBIG) refuses only a write at such an offset.
    """
    files = (place, place.with_name(place.name + "-wal"), place.with_name(place.name + "-shm"))
    probe = place.with_name(f"{place.name}.probe")
    try:
        end = max((file.stat().st_size for file in files if file.exists()), default=0)
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if os.pwrite(handle, _PROBE, end) < len(_PROBE):
                return StoreFull
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        return _BY_ERRNO.get(error.errno or 0)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None
