"""Many files wait for the disk together where the file system allows it, and alone elsewhere."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from viz.storage import disk
from viz.storage.disk import EarlyWriter, begin_writing, flushes_whole, forget, sync_together


class Calls:
    """The calls that are made, in place of the C library; ``syncfs`` answers what a test says."""

    def __init__(self, kind: int) -> None:
        self.kind, self.answer = kind, 0
        self.whole = 0

    def statfs(self, path: bytes, room: Any) -> int:
        room[:8] = self.kind.to_bytes(8, "little")
        return 0

    def syncfs(self, handle: int) -> int:
        self.whole += 1
        return self.answer


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / str(number) for number in range(9)]
    for path in paths:
        path.write_bytes(b"here")
    return paths


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the files that were flushed one by one."""
    found: list[str] = []
    really = os.fsync

    def flush(handle: int) -> None:
        found.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        really(handle)

    monkeypatch.setattr(os, "fsync", flush)
    return found


@pytest.mark.parametrize(("kind", "whole"), [(0xEF53, 1), (0x6969, 0)])  # ext4, NFS
def test_many_files_are_flushed_by_one_call_where_that_flushes_them(
    kind: int, whole: int, files: list[Path], flushed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects blocks on file systems whose syncfs does less than fsync; few files wait alone."""
    calls = Calls(kind)
    monkeypatch.setattr(disk, "_libc", lambda: calls)
    assert flushes_whole(files[0].parent) == bool(whole)
    sync_together(files)
    assert calls.whole == whole
    assert sorted(flushed) == ([] if whole else [path.name for path in files])
    flushed.clear()
    sync_together(files[:3])
    assert calls.whole == whole and sorted(flushed) == ["0", "1", "2"]


def test_a_disk_that_lost_what_was_written_is_an_error(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects from an acknowledgement of bytes that are nowhere."""
    calls = Calls(0xEF53)
    calls.answer = -1
    monkeypatch.setattr(disk, "_libc", lambda: calls)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        sync_together(files)


def test_the_real_calls_work_here(files: list[Path]) -> None:
    """Protects from a wrong signature of a C function; the answer depends on the machine."""
    sync_together(files)
    with files[0].open("r+b") as file:
        file.write(b"more than was here")
        begin_writing(file)
        assert files[0].read_bytes() == b"more than was here"
    assert flushes_whole(files[0].parent) in (True, False)
    with pytest.raises(FileNotFoundError):
        flushes_whole(files[0].parent / "absent")


def test_a_large_file_is_begun_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects who seals or opens a large blob from waiting for all of it at the end; every byte
    is written once, in order."""
    begun: list[int] = []
    monkeypatch.setattr(disk, "begin_writing", lambda file: begun.append(file.tell()))
    pieces = [bytes([number]) * (3 * 1024 * 1024) for number in range(13)]
    with (tmp_path / "large").open("wb") as file:
        target = EarlyWriter(file)
        assert [target.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
        target.flush()
        assert (tmp_path / "large").read_bytes() == b"".join(pieces)
    assert begun == [number * 9 * 1024 * 1024 for number in (1, 2, 3, 4)]


def test_what_is_forgotten_is_still_on_the_disk(tmp_path: Path) -> None:
    """Protects a blob whose blocks leave memory while it is read; a pipe is read all the same."""
    path, data = tmp_path / "large", os.urandom(3 * 1024 * 1024)
    path.write_bytes(data)
    with path.open("rb") as file:
        first = file.read(1024 * 1024)
        forget(file, 0, 2 * 1024 * 1024)
        assert first + file.read() == data
    ours, theirs = os.pipe()
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        forget(pipe, 0, 1)
