"""Ledgers, keys and tokens: nobody else on the machine looks into them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of

from viz.buyer.ledger.ledger import BuyerLedger
from viz.chain.devnet import _hold
from viz.private import (
    close_if_there,
    create_private,
    make_private_file,
    make_private_folder,
    write_private,
)
from viz.storage.embedded import EmbeddedBlobStore
from viz.store.ledger import SqlStore


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(*paths: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in paths}


def test_a_folder_and_a_file_are_made_private_or_become_so(tmp_path: Path) -> None:
    """Also those that an earlier version, or a generous umask, left open."""
    fresh, old = tmp_path / "a" / "fresh", tmp_path / "old"
    old.mkdir(mode=0o777)
    for folder in (fresh, old, old):
        make_private_folder(folder)
    assert modes(fresh, old) == {0o700}
    (old / "file").touch(0o666)
    for path in (old / "file", old / "new"):
        make_private_file(path)
    assert modes(old / "file", old / "new") == {0o600}
    (old / "more").touch(0o644)
    close_if_there(old / "more", old / "gone")
    assert modes(old / "more") == {0o600}


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the old bytes, and nothing beside them; many may write at once."""
    path = tmp_path / "key"
    write_private(path, b"old")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _full)
        with pytest.raises(OSError, match="No space left"):
            write_private(path, b"new")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
    many = [bytes([each]) * 100_000 for each in range(16)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(partial(write_private, path), many))
    assert path.read_bytes() in many and modes(path) == {0o600}
    left = tmp_path / "key.new"
    left.write_bytes(b"what a kill left")
    write_private(path, b"newest", left)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"newest"


def test_a_new_file_is_whole_or_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves no half key under its name, so the command can be given once more."""
    path = tmp_path / "key.json"
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _full)
        with pytest.raises(OSError, match="No space left"):
            create_private(path, b"new")
    assert not list(tmp_path.iterdir())
    create_private(path, b"first")
    with pytest.raises(FileExistsError):
        create_private(path, b"second")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"first"
    assert modes(path) == {0o600}


def _full(_handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_working_directory_is_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was not made for us stays as its owner wants it."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path)
    assert modes(tmp_path) == {0o755}


async def test_a_nodes_ledger_is_the_operators_alone(tmp_path: Path) -> None:
    """The database, its journal, its index and its lock: new ones, and old ones that were open."""
    place = tmp_path / "data" / "ledger.sqlite"
    for _ in range(2):
        store = await SqlStore.open(place, {"node": "n"})
        await store.forget_access(1)
        files = list(place.parent.glob("ledger.sqlite*"))
        assert {each.name.removeprefix("ledger.sqlite") for each in files} >= {"", "-wal", ".lock"}
        assert modes(*files) == {0o600} and modes(place.parent) == {0o700}
        await store.close()
        for path in place.parent.glob("ledger.sqlite*"):
            path.chmod(0o644)
        place.parent.chmod(0o755)


def test_a_buyers_ledger_is_the_buyers_alone(tmp_path: Path) -> None:
    """Session key, signed amounts and deposits, in every folder down to the channel's."""
    home = tmp_path / "buyer"
    for _ in range(2):
        ledger = BuyerLedger.open(home, DEPLOYMENT, address_of(1), "pw", scrypt_n=2)
        ledger.keep_deposit({"a": "b"})
        ledger.close()
        found = [home, *home.rglob("*")]
        assert modes(*(each for each in found if each.is_dir())) == {0o700}
        assert modes(*(each for each in found if each.is_file())) == {0o600}
        for each in found:
            each.chmod(0o755 if each.is_dir() else 0o644)


async def test_what_lies_in_a_nodes_folder_is_closed_one_by_one(tmp_path: Path) -> None:
    """Protects an operator whose data folder is the home or the working directory, which stays
    open: the chain's state and the blobs are closed, also those that an earlier version left."""
    for each in ("chain", "blobs"):
        (tmp_path / each).mkdir(mode=0o755)
    _hold(tmp_path / "chain" / "state.json").release()
    await EmbeddedBlobStore(tmp_path / "blobs").close()
    assert modes(tmp_path / "chain", tmp_path / "blobs") == {0o700}


def test_every_command_and_what_it_starts_is_private_from_its_start(tmp_path: Path) -> None:
    """Protects files that no code of ours makes, such as the state that a local chain writes."""
    program = (
        "import subprocess, sys\n"
        "from viz.cli import main\n"
        "sys.argv = ['viz', 'key', 'new', sys.argv[1] + '/a/b/key.json']\n"
        "try:\n    main()\nfinally:\n    subprocess.run(['touch', 'made-by-a-child'])\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        timeout=120,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path), "VIZ_KEY_PASSWORD": "p"},
        stdout=subprocess.DEVNULL,
        umask=0,
    )
    found = list(tmp_path.rglob("*"))
    assert {each.name for each in found} == {"a", "b", "key.json", "made-by-a-child"}
    assert modes(*(each for each in found if each.is_dir())) == {0o700}
    assert modes(*(each for each in found if each.is_file())) == {0o600}
