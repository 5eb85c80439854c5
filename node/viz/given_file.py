"""Read a file that a person named, or that others gave it: whole, bounded, and never for ever.

Owns what may go wrong with such a file, and the sentences that say so; each names the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from viz.errors import InvalidRequest, VizError

MAX_SECRET_BYTES: Final = 64 * 1024
# How long a pipe may be silent: a person may have to unlock the program that writes to it.
PIPE_WAIT_S: float = 120
_PART_BYTES: Final = 1 << 20


def read_given(path: Path, most_bytes: int, error: type[VizError] = InvalidRequest) -> bytes:
    """Return a file's bytes; raise ``error`` if it is larger, or cannot be read.

    No more than the bound is read. A device or a pipe is refused, because it may have no end.
    """
    with _opened(path, error) as file:
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise _too_large(path, most_bytes, error)
    return raw


def digest_given(path: Path, most_bytes: int, error: type[VizError] = InvalidRequest) -> bytes:
    """Return the SHA-256 of a file of any size up to the bound; raise as ``read_given``."""
    digest, size = hashlib.sha256(), 0
    with _opened(path, error) as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
            if (size := size + len(part)) > most_bytes:
                raise _too_large(path, most_bytes, error)
    return digest.digest()


def _too_large(path: Path, most_bytes: int, error: type[VizError]) -> VizError:
    return error(f"{path} has more than {most_bytes} bytes, which are the most that are read")


@contextmanager
def _opened(path: Path, error: type[VizError]) -> Iterator[BinaryIO]:
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
        try:
            yield file
        except OSError as fault:
            raise error(f"{path} cannot be read: {fault.strerror}") from fault


def read_secret(path: Path, what: str, error: type[VizError]) -> str:
    """Return the secret in a file, without white space around it; raise ``error``."""
    return read_short_text(path, what, error).strip()


def read_short_text(path: Path, what: str, error: type[VizError]) -> str:
    """Return the text of a short file, or of a pipe; raise ``error``, also if a pipe is silent.

    A password may come from another program (``<(pass show viz)``).
    """
    try:
        raw = _all_of(path)
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{what} {path} cannot be read: it is not UTF-8 text") from fault
    except OSError as fault:
        raise error(f"{what} {path} cannot be read: {fault.strerror}") from fault
    except ValueError as fault:
        raise error(f"{what} {str(path)!r} cannot be read: {fault}") from fault
    if len(raw) > MAX_SECRET_BYTES:
        raise error(f"{what} {path} has more than {MAX_SECRET_BYTES} bytes, the most that are read")
    return text


def _all_of(path: Path) -> bytes:
    """Return what a file or pipe has, up to one byte above the bound. Raises OSError, ValueError.

    It is opened without waiting, because a pipe without a writer would be waited for for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        ready, raw = select.poll(), b""
        ready.register(handle, select.POLLIN)
        until = time.monotonic() + PIPE_WAIT_S
        while len(raw) <= MAX_SECRET_BYTES:
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                silent = f"it is a pipe, and nobody has written to it for {PIPE_WAIT_S:.0f} s"
                raise OSError(errno.ETIMEDOUT, silent)
            part = os.read(handle, MAX_SECRET_BYTES + 1 - len(raw))
            if not part:
                break
            raw += part
        return raw
    finally:
        os.close(handle)


@contextmanager
def about(path: Path, remedy: str = "") -> Iterator[None]:
    """Name the file, and what to do, in an InvalidRequest that is raised about its content."""
    try:
        yield
    except InvalidRequest as error:
        then = f". {remedy}" if remedy else ""
        raise type(error)(f"{path}: {error.detail}{then}", **error.extensions) from error
