"""Read a file that a person named, or that others gave it: whole, bounded, and never for ever.

Owns what may go wrong with such a file, and the sentences that say so; each names the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from viz.errors import InvalidRequest, VizError

MAX_SECRET_BYTES: Final = 64 * 1024


def read_given(path: Path, most_bytes: int, error: type[VizError] = InvalidRequest) -> bytes:
    """Return a file's bytes; raise ``error`` if it is larger, or cannot be read.

    No more than the bound is read. A device or a pipe is refused, because it may have no end.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe waits until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise error(f"{path} cannot be read: there is no such file. Check the path") from None
    except (OSError, ValueError) as fault:
        said = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise error(f"{path} cannot be read: {said}") from fault
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise error(f"{path} cannot be read: it is {what}. Give a file")
    with os.fdopen(handle, "rb") as file:
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise error(f"{path} has more than {most_bytes} bytes, which are the most that are read")
    return raw


def read_secret(path: Path, what: str, error: type[VizError]) -> str:
    """Return the secret in a file, without white space around it; raise ``error``.

    A pipe is read too: a password may come from another program (``<(pass show viz)``).
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as fault:
        raise error(f"{what} {path} cannot be read: it is not UTF-8 text") from fault
    except OSError as fault:
        raise error(f"{what} {path} cannot be read: {fault.strerror}") from fault
    if len(raw) > MAX_SECRET_BYTES:
        raise error(f"{what} {path} has more than {MAX_SECRET_BYTES} bytes: it is no secret")
    return text


@contextmanager
def about(path: Path, remedy: str = "") -> Iterator[None]:
    """Name the file, and what to do, in an InvalidRequest that is raised about its content."""
    try:
        yield
    except InvalidRequest as error:
        then = f". {remedy}" if remedy else ""
        raise type(error)(f"{path}: {error.detail}{then}", **error.extensions) from error
