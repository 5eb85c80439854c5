"""Make folders and files that no other user of the machine can read: ledgers, keys, tokens.

Owns their modes, 0700 and 0600, also if an earlier version or a permissive umask left more. Every
command sets its umask at the start (``be_private``), also for the programs that it starts: chain,
Kubo, training. A private folder is closed to others whenever it is opened, because an earlier
version may have left it open.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

_OTHERS = 0o077


def be_private() -> None:
    """Let this process, and the programs that it starts, make files for its user alone."""
    os.umask(_OTHERS)


def make_private_folder(path: Path) -> None:
    """Make a folder that is its owner's alone, or close one that is there. Raises OSError.

    One that holds the working directory, or is the home of somebody, was not made for us alone: it
    stays as it is, and the files in it are private by themselves.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    whole = path.resolve()
    here = Path.cwd()
    if whole in (here, Path.home(), *here.parents):
        return
    _close(path)


def make_private_file(path: Path) -> None:
    """Make an empty file that is its owner's alone, or close one that is there. Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _close(path)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder, at any depth. Raises OSError.

    These are the names under which files are written before they are renamed. Call it only while
    no other process writes there.
    """
    for path in (*folder.rglob("*.part"), *folder.rglob(".*.age")):
        path.unlink(missing_ok=True)


def write_private(path: Path, data: bytes, partial: Path | None = None) -> None:
    """Write a file atomically and durably, readable by its owner only. Raises OSError.

    ``partial`` is written first and renamed. Its default is a new name in the same folder, so that
    several may write at once; a caller that alone writes ``path`` can name one, so that what a kill
    leaves is written over the next time. A pipe or a device is not replaced by a file.
    """
    partial = partial or path.parent / f".{uuid.uuid4().hex}.part"
    try:
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
                raise OSError(errno.EINVAL, "it is a pipe or a device")
        _write_whole(path, data, partial)
    except OSError as error:
        if error.errno is None:
            raise
        # The person named this path, and knows nothing of the other.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_whole(path: Path, data: bytes, partial: Path) -> None:
    partial.unlink(missing_ok=True)
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def create_private(path: Path, data: bytes) -> None:
    """Write a new file as ``write_private`` does; raise FileExistsError if there is one already.

    If the write fails, no file stays. A kill in its midst can leave an empty file.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        write_private(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def close_if_there(*paths: Path) -> None:
    """Take from others what they may do with these files, where there are such. Raises OSError."""
    for path in paths:
        with suppress(FileNotFoundError):
            _close(path)


def _close(path: Path) -> None:
    found = path.stat()
    # A file of another owner is shared on purpose: leave its mode.
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
