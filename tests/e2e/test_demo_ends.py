"""The demo ends what it started, however it is ended itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from examples.demo.world import ROOT

# The demo itself, with one stage that starts a chain, and a server where there is one, and lasts.
_DEMO = """
import os, sys, time
from pathlib import Path
from benchmarks.engine_parts import vllm_process
from examples.demo import __main__ as demo, network, upstream

def lasting(world):
    world.start("testnet", "testnet", "run", "--rpc-port", world.rpc_port)
    print("running", flush=True)
    time.sleep(600)

demo.STAGES = (("a chain", lambda story: lasting(story.world)),)
network._nodes = lambda story: lasting(story.chain)
vllm_process.make = lambda name: Path(os.environ["SERVER"])
upstream._base = lambda story: (story.server.start(), lasting(story.chain))
sys.exit(demo.main())
"""
# Stands for vLLM's Python: it has a child, as vLLM's server has its engine.
_SERVER = "#!/bin/sh\nsleep 600 &\nwait\n"


def _running_in(folder: Path) -> list[int]:
    """Return the processes that have the folder in their environment, but for zombies."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and str(folder).encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
        except OSError:
            continue
    return found


def _words_in(folder: Path) -> set[bytes]:
    """Return the words of the command lines of the processes that have the folder."""
    words: set[bytes] = set()
    for each in _running_in(folder):
        with suppress(OSError):
            words.update(Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0"))
    return words


def _within_a_minute(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("by", "options"),
    [(signal.SIGTERM, ("--network",)), (signal.SIGTERM, ("--upstream",)), (signal.SIGKILL, ())],
)
def test_no_process_of_the_demo_outlives_it(
    tmp_path: Path, by: signal.Signals, options: tuple[str, ...]
) -> None:
    """Protects a machine from nodes and chains that go on after their demo was ended."""
    server = tmp_path / "python"
    server.write_text(_SERVER)
    server.chmod(0o700)
    demo = subprocess.Popen(
        [sys.executable, "-c", _DEMO, *options, "--folder", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "SERVER": str(server),
            "PYTHONPATH": f"{ROOT / 'node'}{os.pathsep}{ROOT}",
        },
    )
    assert demo.stdout is not None
    try:
        assert any(line.startswith("running") for line in demo.stdout), "no chain was started"
        wanted = {b"testnet"} | ({b"sleep"} if "--upstream" in options else set())
        assert _within_a_minute(lambda: wanted <= _words_in(tmp_path)), "a process is not found"
        demo.send_signal(by)
        demo.wait(60)
        assert _within_a_minute(lambda: not _running_in(tmp_path)), _words_in(tmp_path)
    finally:
        demo.kill()
        demo.stdout.close()
        for left in _running_in(tmp_path):
            os.kill(left, signal.SIGKILL)
