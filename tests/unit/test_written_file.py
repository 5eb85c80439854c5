"""Files that a command writes for a person: what is there stays, and a sentence says why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from viz.errors import InvalidRequest
from viz.private import write_private
from viz.written_file import is_written, require_new, write_new


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    """A file, a folder, a pipe, a device, a link to nothing, a path in no folder: each is told,
    before and at the writing, and stays what it was."""
    file, pipe, link = tmp_path / "file", tmp_path / "pipe", tmp_path / "link"
    file.write_text("mine")
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nowhere")
    for path, said in (
        (file, "file exists already"),
        (link, "link exists already"),
        (pipe, "is a pipe or a device"),
        (Path("/dev/full"), "is a pipe or a device"),
        (tmp_path, "is a folder"),
        (Path(), "is a folder"),
        (file / "below", "is in no folder"),
        (tmp_path / "none" / "x.json", "x.json is in no folder"),
        (tmp_path / ("n" * 300), "cannot be written"),
        (tmp_path / "a\0b", "cannot be written"),
    ):
        with pytest.raises(InvalidRequest, match=f"--out .*{said}"):
            require_new(path, "--out")
        with pytest.raises(InvalidRequest, match=said):
            write_new(path, b"x")
    assert file.read_text() == "mine" and pipe.is_fifo() and link.is_symlink()
    assert Path("/dev/full").is_char_device()
    new = tmp_path / "new"
    write_new(new, b"x")
    assert new.read_bytes() == b"x" and new.stat().st_mode & 0o777 == 0o600
    assert is_written(new, b"x") and not is_written(new, b"xy") and not is_written(pipe, b"")


def test_no_private_file_takes_the_place_of_a_pipe(tmp_path: Path) -> None:
    """Whatever writes it, and the error names the path that was meant."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, said in (
        (pipe, f"a pipe or a device: '{pipe}'"),
        (tmp_path, f"'{tmp_path}'"),
        (tmp_path / "none" / "x", f"'{tmp_path / 'none' / 'x'}'"),
        (Path(), r"'\.'"),
    ):
        with pytest.raises(OSError, match=said):
            write_private(path, b"x")
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == [pipe]
