"""Write the blocks of one blob to files, in batches, so that many wait for the disk together.

Owns the order on the disk. Invariants: a block's file appears under its name by rename, only after
its bytes are on the disk; inner blocks appear only after every leaf before them, names included;
while one batch waits for the disk the next is written, and no third one; what the writer holds in
memory is inner blocks and two groups of leaves.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from viz.domain.units import Cid
from viz.errors import StorageFull
from viz.storage.cid import RAW, codec_of
from viz.storage.disk import flushes_whole, sync_together, write_whole
from viz.storage.unixfs import IpfsBlock

_BATCH: Final = 128
# Leaves that one thread writes while the next are read and hashed: 2 MiB.
_GROUP: Final = 8
# Inner blocks are held until their leaves are on the disk: one for each 43 MiB of a file.
_MAX_INNER: Final = 256
_Group = list[tuple[Path, bytes]]
# Where each block goes, and the file that is written first.
_Batch = dict[Cid, tuple[Path, Path]]


class BlockWriter:
    """Write blocks that come children first. Blocks the thread. Every method raises OSError."""

    def __init__(
        self, place: Callable[[Cid], Path], partial: Path, *, room_bytes: int | None = None
    ) -> None:
        """Write to ``place(cid)`` by way of the folder ``partial``; new bytes are bounded."""
        self._place, self._partial, self._room = place, partial, room_bytes
        # One name for this writer, and a number for each of its files.
        self._name, self._files = uuid.uuid4().hex, 0
        # The leaves of this batch and of the one before.
        self._staged: _Batch = {}
        self._behind: _Batch = {}
        self._group: _Group = []
        self._inner: dict[Cid, tuple[Path, bytes]] = {}
        self._folders: set[Path] = set()
        self._new: list[Path] = []
        self._writer, self._publisher = _OneTask(), _OneTask()

    def write(self, block: IpfsBlock) -> None:
        """Write a block that is not there yet, or is damaged; raise StorageFull without room."""
        cid = block.cid
        if cid in self._staged or cid in self._behind or cid in self._inner:
            return
        path = self._place(cid)
        is_whole = holds(path, block.data)
        if is_whole:
            return
        # A damaged block that is written anew takes no room, and stays if the blob does not fit.
        if is_whole is None:
            if self._room is not None:
                self._room -= len(block.data)
                if self._room < 0:
                    raise StorageFull("the quota is reached")
            self._new.append(path)
        if codec_of(cid) != RAW:
            self._inner[cid] = (path, block.data)
            if len(self._inner) == _MAX_INNER:
                self.flush()
            return
        self._stage(cid, path, block.data)
        if len(self._group) == _GROUP:
            group, self._group = self._group, []
            self._writer.start(lambda: _write_all(group))
        if len(self._staged) == _BATCH:
            self._writer.wait()
            self._publisher.wait()
            batch = self._behind = self._staged
            self._staged = {}
            self._publisher.start(lambda: self._publish(batch))

    def flush(self) -> None:
        """Wait until all that was written is on the disk, under its names."""
        self._publisher.wait()
        self._publish_staged()
        inner, self._inner = self._inner, {}
        # Children come first. Where the file system keeps the order of renames, that is enough.
        together = len(inner) > 1 and flushes_whole(self._partial)
        for cid, (path, data) in inner.items():
            self._stage(cid, path, data)
            if not together:
                self._publish_staged()
        self._publish_staged()

    def undo(self) -> None:
        """Delete the blocks that this writer was the first to write."""
        self._drop()
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
        self._drop()
        self._writer.close()
        self._publisher.close()

    def _stage(self, cid: Cid, path: Path, data: bytes) -> None:
        self._files += 1
        partial = self._partial / f"{self._name}-{self._files}"
        self._staged[cid] = (path, partial)
        self._group.append((partial, data))

    def _publish_staged(self) -> None:
        """Write what is staged, and return when it is on the disk under its names."""
        self._writer.wait()
        _write_all(self._group)
        self._group = []
        self._publish(self._staged)
        self._staged = {}
        sync_together(self._folders | {folder.parent for folder in self._folders})
        self._folders.clear()

    def _publish(self, batch: _Batch) -> None:
        """Give written blocks their names, once their bytes are on the disk."""
        sync_together([partial for _, partial in batch.values()])
        for path, partial in batch.values():
            if path.parent not in self._folders:
                path.parent.mkdir(exist_ok=True)
                self._folders.add(path.parent)
            partial.replace(path)

    def _drop(self) -> None:
        """Delete what has no name yet."""
        for task in (self._writer, self._publisher):
            with suppress(OSError):
                task.wait()
        for _, partial in (*self._behind.values(), *self._staged.values()):
            partial.unlink(missing_ok=True)
        self._behind, self._staged, self._group = {}, {}, []


class _OneTask:
    """A thread that does one thing at a time, and is there once something was started."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; wait for what was begun before, and raise its error."""
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="block-writer")
        self._running = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for what was begun, and raise its error."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def _write_all(group: _Group) -> None:
    for path, data in group:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_whole(handle, data)
        finally:
            os.close(handle)


def holds(path: Path, data: bytes) -> bool | None:
    """Return whether a file has exactly these bytes, None if there is none."""
    try:
        return os.stat(path).st_size == len(data) and path.read_bytes() == data  # noqa: PTH116
    except FileNotFoundError:
        return None
