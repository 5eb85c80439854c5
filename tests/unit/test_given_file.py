"""Files that a command is given: a sentence that names the file, whatever it is."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from viz import given_file
from viz.errors import ConfigError, InvalidRequest, InvalidWork
from viz.given_file import MAX_SECRET_BYTES, about, digest_given, read_given, read_secret


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
        with pytest.raises(InvalidRequest, match=said):
            digest_given(path, 1024)


def test_what_is_wrong_inside_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    said = r"a\.json: it lacks 'x'\. Make it again"
    with pytest.raises(InvalidRequest, match=said), about(tmp_path / "a.json", "Make it again"):
        raise InvalidRequest("it lacks 'x'")


def test_a_secret_comes_from_a_file_or_another_program(tmp_path: Path) -> None:
    """``<(pass show viz)`` is a pipe. What is no text, too long or not there gets a sentence."""
    reader, writer = os.pipe()
    os.write(writer, b" geheimnis \n")
    os.close(writer)
    assert read_secret(Path(f"/dev/fd/{reader}"), "the password file", ConfigError) == "geheimnis"
    os.close(reader)
    latin, long = tmp_path / "latin", tmp_path / "long"
    latin.write_bytes("pässword".encode("latin-1"))
    long.write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    for path, said in (
        (latin, "latin cannot be read: it is not UTF-8 text"),
        (long, "long has more than"),
        (tmp_path / "none", "none cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=f"the password file .*{said}"):
            read_secret(path, "the password file", ConfigError)


def test_a_secret_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to, or whose writer falls silent, ends in a sentence; a device
    without an end fills no memory. A program that writes late is waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    late = threading.Timer(0.2, lambda: pipe.write_text("spät\n", encoding="utf-8"))
    late.start()
    assert read_secret(pipe, "the password file", ConfigError) == "spät"
    late.join()
    monkeypatch.setattr(given_file, "PIPE_WAIT_S", 0.1)
    with pytest.raises(ConfigError, match=r"pipe cannot be read: .*nobody has written to it"):
        read_secret(pipe, "the password file", ConfigError)
    reader, writer = os.pipe()
    with pytest.raises(ConfigError, match="nobody has written to it"):
        read_secret(Path(f"/dev/fd/{reader}"), "the password file", ConfigError)
    os.close(reader)
    os.close(writer)
    with pytest.raises(ConfigError, match="zero has more than"):
        read_secret(Path("/dev/zero"), "the password file", ConfigError)


def test_a_digest_is_of_the_whole_file_and_bounded(tmp_path: Path) -> None:
    """Evidence may be large: it is read in parts."""
    large = tmp_path / "film"
    large.write_bytes(b"a" * (3 << 20))
    assert digest_given(large, 3 << 20) == hashlib.sha256(b"a" * (3 << 20)).digest()
    with pytest.raises(InvalidRequest, match="film has more than"):
        digest_given(large, (3 << 20) - 1)
