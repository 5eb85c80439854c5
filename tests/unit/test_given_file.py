"""Files that a command is given: a sentence that names the file, whatever it is."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from viz.errors import InvalidRequest, InvalidWork
from viz.given_file import about, read_given


def test_no_more_than_the_bound_is_read(tmp_path: Path) -> None:
    """A file of three gigabytes (here a sparse one) costs neither memory nor time."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(3 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidWork, match=r"huge has more than 1024 bytes"):
            read_given(huge, 1024, InvalidWork)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    huge.write_bytes(b"x" * 1024)
    assert len(read_given(huge, 1024)) == 1024


def test_what_has_no_end_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device, a folder, nothing at all: each is told at once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, said in (
        (pipe, "a pipe or a device"),
        (Path("/dev/zero"), "a pipe or a device"),
        (tmp_path, "a folder"),
        (tmp_path / "none", "no such file"),
        (tmp_path / ("n" * 300), "cannot be read"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(InvalidRequest, match=said) as told:
            read_given(path, 1024)
        assert str(path)[:40] in told.value.detail


def test_what_is_wrong_inside_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    said = r"a\.json: it lacks 'x'\. Make it again"
    with pytest.raises(InvalidRequest, match=said), about(tmp_path / "a.json", "Make it again"):
        raise InvalidRequest("it lacks 'x'")
