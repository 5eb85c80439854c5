"""The demo ends what it started, however it is ended itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples.demo.world import ROOT

# The demo itself, with one stage that starts a chain and lasts.
_DEMO = """
import sys, time
from pathlib import Path
from examples.demo import __main__ as demo, network

def lasting(world):
    world.start("testnet", "testnet", "run", "--rpc-port", world.rpc_port)
    print("running", flush=True)
    time.sleep(600)

demo.STAGES = (("a chain", lambda story: lasting(story.world)),)
network._nodes = lambda story: lasting(story.chain)
sys.exit(demo.main())
"""


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


@pytest.mark.parametrize(
    ("by", "options"), [(signal.SIGTERM, ("--network",)), (signal.SIGKILL, ())]
)
def test_no_process_of_the_demo_outlives_it(
    tmp_path: Path, by: signal.Signals, options: tuple[str, ...]
) -> None:
    """Protects a machine from nodes and chains that go on after their demo was ended."""
    demo = subprocess.Popen(
        [sys.executable, "-c", _DEMO, *options, "--folder", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'node'}{os.pathsep}{ROOT}"},
    )
    assert demo.stdout is not None
    try:
        assert any(line.startswith("running") for line in demo.stdout), "no chain was started"
        assert _running_in(tmp_path), "the chain's process is not found"
        demo.send_signal(by)
        demo.wait(60)
        until = time.monotonic() + 60
        while _running_in(tmp_path) and time.monotonic() < until:
            time.sleep(0.1)
        assert _running_in(tmp_path) == []
    finally:
        demo.kill()
        demo.stdout.close()
        for left in _running_in(tmp_path):
            os.kill(left, signal.SIGKILL)
