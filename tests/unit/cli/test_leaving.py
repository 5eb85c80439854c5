"""The end of a command: what the daemon says at a signal, and how the process leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from viz.cli import console
from viz.cli.console import until_signal
from viz.cli.exit_codes import OUTPUT_LOST, PIPE_CLOSED


async def test_a_signal_is_answered_at_once_and_ends_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Protects the person who stops the node: they read why it takes a while, and it ends."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            ended.set()

    said: list[str] = []
    monkeypatch.setattr(console.err, "print", said.append)
    await asyncio.wait_for(until_signal(work(), "Stopping: the ledger is closed."), 30)
    assert said == ["Stopping: the ledger is closed."] and ended.is_set()


def left(code: object, *, torch: bool) -> subprocess.CompletedProcess[str]:
    """Run the entry point in a process of its own, with a command that only prints."""
    program = (
        "import atexit, sys, types\n"
        "from viz.cli import main as entry\n"
        "import viz.cli.main\n"
        "def command():\n"
        "    print('the result')\n"
        f"    raise SystemExit({code!r})\n"
        "sys.modules['viz.cli.main'].app = command\n"
        "atexit.register(print, 'taken apart')\n"
        f"if {torch}: sys.modules['torch'] = types.ModuleType('torch')\n"
        "entry()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_process_with_torch_ends_without_taking_the_interpreter_apart() -> None:
    """That took most of the seconds of a stop; the result and the exit code are kept."""
    done = left(7, torch=True)
    assert (done.returncode, done.stdout) == (7, "the result\n"), done.stderr
    assert left(None, torch=True).returncode == 0
    done = left(7, torch=False)
    assert (done.returncode, done.stdout) == (7, "the result\ntaken apart\n"), done.stderr


CHECK = f"content check {Path(__file__).parents[3]}/docs/adr --node http://127.0.0.1:1"


@pytest.mark.parametrize("words", ["--version", "--help", CHECK])
def test_an_output_that_cannot_be_written_has_its_own_exit_code(words: str) -> None:
    """Protects scripts and people: a full disk is named, and `| head` is no failure to explain."""
    command = [sys.executable, "-m", "viz", *words.split()]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == OUTPUT_LOST
    assert done.stderr == (
        "output-lost: what was printed cannot be written: No space left on device; what the "
        "command did stands\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


def test_a_failure_that_was_told_keeps_its_exit_code() -> None:
    """What went wrong first is what a script has to know."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "viz", "content", "nothing"]
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2 and b"nothing" in done.stderr


@pytest.mark.parametrize("full", [True, False], ids=["full disk", "closed pipe"])
@pytest.mark.parametrize(("words", "code"), [("content nothing", 2), ("channel show", 3)])
def test_a_failure_that_could_not_be_told_keeps_its_exit_code(
    words: str, code: int, *, full: bool, tmp_path: Path
) -> None:
    """A deposit that failed looked like one that was made, whose report was lost."""
    reading, writing = os.pipe()
    os.close(reading)
    given = {**os.environ, "VIZ_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "viz", *words.split()]
    with os.fdopen(writing, "wb") as closed, Path("/dev/full").open("wb") as disk:
        lost = disk if full else closed
        done = subprocess.run(command, stdout=lost, stderr=lost, env=given, check=False)
    assert done.returncode == code
