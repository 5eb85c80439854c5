"""The end of a command: what the daemon says at a signal, and how the process leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from viz.cli import console
from viz.cli.console import until_signal


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
