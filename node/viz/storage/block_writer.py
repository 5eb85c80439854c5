"""Write the blocks of one blob to files, in batches, so that many wait for the disk together.

Owns the order on the disk. Invariants: a block's file appears under its name by rename, only after
its bytes are on the disk; inner blocks appear only after every leaf before them, names included;
at most ``_BATCH`` files are open, and what the writer holds in memory is inner blocks alone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Final

from viz.domain.units import Cid
from viz.errors import StorageFull
from viz.private import sync_to_disk, write_private
from viz.storage.cid import RAW, codec_of
from viz.storage.unixfs import IpfsBlock

_BATCH: Final = 64
# Inner blocks are held until their leaves are on the disk: one for each 43 MiB of a file.
_MAX_INNER: Final = 256
_SYNCING: Final = 4


class BlockWriter:
    """Write blocks that come children first. Blocks the thread. Every method raises OSError."""

    def __init__(
        self, place: Callable[[Cid], Path], partial: Path, *, room_bytes: int | None = None
    ) -> None:
        """Write to ``place(cid)`` by way of the folder ``partial``; new bytes are bounded."""
        self._place, self._partial, self._room = place, partial, room_bytes
        self._staged: dict[Path, tuple[BufferedWriter, Path]] = {}
        self._inner: list[tuple[Path, bytes]] = []
        self._folders: set[Path] = set()
        self._new: list[Path] = []

    def write(self, block: IpfsBlock) -> None:
        """Write a block that is not there yet, or is damaged; raise StorageFull without room."""
        path = self._place(block.cid)
        if path in self._staged or holds(path, block.data):
            return
        # A damaged block that is written anew takes no room, and stays if the blob does not fit.
        if not path.exists():
            if self._room is not None:
                self._room -= len(block.data)
                if self._room < 0:
                    raise StorageFull("the quota is reached")
            self._new.append(path)
        if codec_of(block.cid) != RAW:
            self._inner.append((path, block.data))
            if len(self._inner) == _MAX_INNER:
                self.settle()
            return
        partial = self._partial / uuid.uuid4().hex
        file = partial.open("xb")
        self._staged[path] = file, partial
        file.write(block.data)
        file.flush()
        if len(self._staged) == _BATCH:
            self._flush()

    def settle(self) -> None:
        """Wait until all that was written is on the disk, under its names."""
        self._flush()
        for folder in self._folders:
            sync_to_disk(folder)
        for folder in {folder.parent for folder in self._folders}:
            sync_to_disk(folder)
        self._folders.clear()
        for path, data in self._inner:
            path.parent.mkdir(exist_ok=True)
            write_private(path, data, self._partial / uuid.uuid4().hex)
            sync_to_disk(path.parent.parent)
        self._inner.clear()

    def undo(self) -> None:
        """Delete the blocks that this writer was the first to write."""
        for path in self._new:
            path.unlink(missing_ok=True)

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file, partial in self._staged.values():
            file.close()
            partial.unlink(missing_ok=True)
        self._staged.clear()

    def _flush(self) -> None:
        if not self._staged:
            return
        # Several at once, so that the file system commits them together.
        with ThreadPoolExecutor(_SYNCING) as syncing:
            list(syncing.map(os.fsync, [file.fileno() for file, _ in self._staged.values()]))
        for path in list(self._staged):
            file, partial = self._staged[path]
            file.close()
            path.parent.mkdir(exist_ok=True)
            partial.replace(path)
            self._folders.add(path.parent)
            del self._staged[path]


def holds(path: Path, data: bytes) -> bool:
    """Return whether a file is there and has exactly these bytes."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
