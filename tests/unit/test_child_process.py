"""A killed daemon leaves no child behind that would go on writing its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from viz.child_process import tied

_PARENT = """
import subprocess, sys, time
from viz.child_process import tied
child = subprocess.Popen(tied([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
time.sleep(600)
"""


def _alive(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_dies_with_a_parent_that_was_killed() -> None:
    """Protects the chain's state and a training's folder from an orphan that still writes there."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert _alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _alive(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child outlived its parent")


def test_a_tied_command_is_the_command() -> None:
    """Protects arguments, output and exit code from the tie."""
    code = "import sys; print(sys.argv[1:]); sys.exit(3)"
    done = subprocess.run(
        tied([sys.executable, "-c", code, "a b"]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("['a b']", 3)
