"""Write a file that a person named: a new one, whole or not at all, for its owner alone.

Owns one rule for every command that has such a file: nothing that is there is written over, be it a
file, a folder, a pipe or a device, and a sentence says so before anything is paid or computed.
"""

from __future__ import annotations

import stat
from pathlib import Path

from viz.errors import InvalidRequest
from viz.given_file import read_given
from viz.private import create_private


def require_new(path: Path, option: str = "") -> None:
    """Raise InvalidRequest if ``path`` cannot become a new file; ``option`` is where it was named.

    To be called at the start of a command, too.
    """
    said = f"{option} {path}".strip()
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise InvalidRequest(f"{said} is in no folder that there is: name a new file") from None
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest(f"{said} cannot be written: {why}. Name a new file") from error
    is_file = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
    what = "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device"
    raise InvalidRequest(f"{said} {'exists already' if is_file else what}: name a new file")


def write_new(path: Path, data: bytes, option: str = "") -> None:
    """Write a new file. Raises InvalidRequest as ``require_new``, OSError that names the file."""
    require_new(path, option)
    try:
        create_private(path, data)
    except FileExistsError as error:
        raise InvalidRequest(f"{path} exists already: name a new file") from error


def is_written(path: Path, data: bytes) -> bool:
    """Return whether a file has exactly these bytes already; raise InvalidRequest as above."""
    if not path.is_file():
        return False
    return read_given(path, max(path.stat().st_size, len(data))) == data
