"""Let one process at a time use a folder or a file, such as a ledger or a chain's state.

The kernel releases a lock when its process ends, however it ends. The lock file stays.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class ProcessLock:
    """A lock that this process holds; make it with ``take`` or ``wait``."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, path: Path) -> ProcessLock | None:
        """Lock the file ``path``, created for its user alone if it is missing, without waiting.

        Returns None if another process, or another lock of this one, holds it. Raises OSError if
        the file cannot be opened or locked, as on some network file systems.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
        return cls(handle)

    @classmethod
    def wait(cls, path: Path) -> ProcessLock:
        """Lock the file as ``take`` does, when those who hold it have released it. Blocks.

        Only for a lock that is never held over an await or another wait. Raises OSError.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            os.close(handle)
            raise
        return cls(handle)

    def release(self) -> None:
        """Let others take the lock. A second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
