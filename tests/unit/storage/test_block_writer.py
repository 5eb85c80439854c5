"""The order on the disk, as calls to it: bytes before names, leaves before inner blocks."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from viz.domain.units import Cid
from viz.errors import StorageFull
from viz.storage import block_writer
from viz.storage import disk as disk_calls
from viz.storage.block_writer import _BATCH, BlockWriter
from viz.storage.cid import DAG_PB, RAW, cid_of, codec_of, to_text
from viz.storage.unixfs import IpfsBlock

LEAVES = 2 * _BATCH + 3


def block(codec: int, data: bytes) -> IpfsBlock:
    return IpfsBlock(to_text(cid_of(codec, data)), data)


BLOCKS = [
    *(block(RAW, b"leaf %d" % number) for number in range(LEAVES)),
    *(block(DAG_PB, b"inner %d" % number) for number in range(3)),
]


class Disk:
    """A folder for blocks, and what was asked of the disk in its order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blocks, self.partial = folder / "blocks", folder / "partial"
        self.blocks.mkdir()
        self.partial.mkdir()
        self.synced: list[Path] = []
        self.named: list[Cid] = []
        self.renames_left, self.slow_s = -1, 0.0
        self.threads: set[int] = set()
        really, rename = disk_calls.sync_together, Path.replace

        def sync(paths: Collection[Path]) -> None:
            if threading.current_thread() is not threading.main_thread():
                time.sleep(self.slow_s)
            self.synced += paths
            really(paths)

        def replace(path: Path, target: Path) -> Path:
            self.renames_left -= 1
            if not self.renames_left:
                raise OSError(errno.EIO, "Input/output error")
            self.threads.add(threading.get_ident())
            assert path in self.synced, "a block has its name before its bytes are on the disk"
            cid = Cid(target.name)
            if codec_of(cid) != RAW:
                leaves = [each for each in self.named if codec_of(each) == RAW]
                assert all(self.place(each).parent in self.synced for each in leaves)
                assert self.blocks in self.synced, "the names of folders are names too"
            self.named.append(cid)
            return rename(path, target)

        monkeypatch.setattr(block_writer, "sync_together", sync)
        monkeypatch.setattr(Path, "replace", replace)

    def place(self, cid: Cid) -> Path:
        return self.blocks / cid[-3:-1] / cid

    def writer(self, room_bytes: int | None = None) -> BlockWriter:
        return BlockWriter(self.place, self.partial, room_bytes=room_bytes)

    def files(self) -> set[str]:
        return {path.name for path in self.blocks.rglob("*") if path.is_file()}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


@pytest.mark.parametrize("whole", [True, False])
def test_bytes_come_before_names_and_children_before_parents(
    disk: Disk, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a store from a power cut, whether the file system is flushed whole or not."""
    monkeypatch.setattr(block_writer, "flushes_whole", lambda folder: whole)
    with disk.writer() as writer:
        for each in (*BLOCKS, *BLOCKS[:5]):
            writer.write(each)
        writer.flush()
        assert disk.named == [each.cid for each in BLOCKS], "in order, and none twice"
        assert {disk.place(each.cid).parent for each in BLOCKS} <= set(disk.synced)
    assert len(disk.threads) == 2, "a batch waits for the disk while the next is written"
    for each in BLOCKS:
        assert disk.place(each.cid).read_bytes() == each.data
    assert not list(disk.partial.iterdir())


@pytest.mark.parametrize("rename", [5, _BATCH + 5, LEAVES, LEAVES + 2])
def test_a_disk_that_fails_in_a_batch_is_said_and_nothing_half_written_stays(
    disk: Disk, rename: int
) -> None:
    """Protects from an acknowledgement of what another thread could not write."""
    disk.renames_left = rename
    with pytest.raises(OSError, match="Input/output"), disk.writer() as writer:
        for each in BLOCKS:
            writer.write(each)
        writer.flush()
    assert not list(disk.partial.iterdir())
    assert disk.files() == {each.cid for each in BLOCKS[: rename - 1]}


def test_what_finds_no_room_is_undone_with_the_batch_that_still_waits(disk: Disk) -> None:
    """Protects a full store: no block that only the refused blob has stays."""
    kept = BLOCKS[3]
    with disk.writer() as writer:
        writer.write(kept)
        writer.flush()
    room = sum(len(each.data) for each in BLOCKS[: _BATCH + 9])
    disk.slow_s = 0.3
    with disk.writer(room) as writer:
        with pytest.raises(StorageFull):
            for each in BLOCKS:
                writer.write(each)
        writer.undo()
    assert disk.files() == {kept.cid} and not list(disk.partial.iterdir())
