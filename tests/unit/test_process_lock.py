"""One process at a time: a second one is turned away, and the lock goes with its process."""

from __future__ import annotations

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from viz.process_lock import ProcessLock

HOLD = "import sys; from pathlib import Path; from viz.process_lock import ProcessLock\n"
HOLD += "lock = ProcessLock.take(Path(sys.argv[1])); print(lock is not None, flush=True)\n"
HOLD += "sys.stdin.read()\n"


def test_who_holds_the_lock_holds_it_alone(tmp_path: Path) -> None:
    """Two writers of one ledger would overwrite each other's money."""
    place = tmp_path / "lock"
    first = ProcessLock.take(place)
    assert first is not None and ProcessLock.take(place) is None
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    first.release()
    first.release()
    second = ProcessLock.take(place)
    assert second is not None
    second.release()


def test_who_waits_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    """Two processes that write one small file do so one after the other."""
    place = tmp_path / "lock"
    first = ProcessLock.take(place)
    assert first is not None
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(ProcessLock.wait, place)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        first.release()
        waiting.result(30).release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    """Who restarts after a kill opens its ledger without removing a file by hand."""
    place = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        assert ProcessLock.take(place) is None
        other.kill()
    mine = ProcessLock.take(place)
    assert mine is not None
    mine.release()
