"""Keep the keys of sealed blobs in a folder, one file per blob.

Owns the folder and the files in it. ``age -d -i`` takes such a file. Invariants: a file is
complete, on disk before ``put`` returns, and readable by its owner only; after ``destroy`` its
bytes are overwritten and its name is gone (a copy-on-write file system, a snapshot or a backup may
still hold them: docs/operating.md). A kill in between leaves an overwritten file: it is no key any
more, and still has to be removed.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from viz.domain.units import Cid
from viz.errors import StorageUnavailable
from viz.private import make_private_folder, sync_to_disk, write_private
from viz.storage.cid import to_binary
from viz.storage.sealing import IDENTITY_PREFIX

_MAX_BYTES: Final = 512
_OVERWRITTEN: Final = b"#"


class KeyFolder:
    """Implements KeyStore in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, cid: Cid, key: str) -> None:
        """Store a blob's key durably; raise StorageUnavailable."""
        await asyncio.to_thread(self._put, self._path(cid), key)

    async def get(self, cid: Cid) -> str | None:
        """Return a blob's key; None if it is not in the folder, or was overwritten.

        Raises StorageUnavailable if its file is damaged.
        """
        return await asyncio.to_thread(_read, self._path(cid))

    async def has(self, cid: Cid) -> bool:
        """Return whether the folder has a file for a blob's key, whatever is in it."""
        return await asyncio.to_thread(_is_there, self._path(cid))

    async def destroy(self, cid: Cid) -> bool:
        """Overwrite and remove a blob's key, or what is left of it; return whether it was there."""
        return await asyncio.to_thread(_destroy, self._path(cid))

    def _path(self, cid: Cid) -> Path:
        to_binary(cid)
        return self._folder / f"{cid}.key"

    def _put(self, path: Path, key: str) -> None:
        try:
            make_private_folder(self._folder)
            write_private(path, f"# key of the sealed blob {path.stem}\n{key}\n".encode("ascii"))
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be read: {error}") from error
    if data and not data.strip(_OVERWRITTEN):
        return None
    lines = data.decode("ascii", errors="replace").splitlines()
    found = [line.strip() for line in lines if line.strip().startswith(IDENTITY_PREFIX)]
    if not found:
        raise StorageUnavailable(
            f"{path} is damaged: it holds no key. If this node may still use its blob, restore the "
            "file from a backup"
        )
    return found[0]


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be read: {error.strerror}") from error
    return True


def _destroy(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            size = path.stat().st_size
            file.write(_OVERWRITTEN * size)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_to_disk(path.parent)
    except FileNotFoundError:
        path.unlink(missing_ok=True)  # a link to nothing
        return False
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be destroyed: {error.strerror}") from error
    return True
