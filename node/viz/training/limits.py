"""End a worker from within: at a signal, the time bound or the memory bound.

Owns when a run must stop, not what happens then. Does not know training or events.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from viz.errors import TrainingCancelled, TrainingError

_MEMORY_CHECK_S: Final = 0.5
# For a trainer, who chooses the settings. An auditor repeats those of the manifest.
TIME_ADVICE: Final = ": raise it, or train fewer steps"
MEMORY_ADVICE: Final = ": raise the bound, or lower rows_per_step"


class Stopper:
    """Knows when the run must stop: a signal, the time bound."""

    def __init__(self, time_s: int) -> None:
        self._asked = False
        self._deadline = time.monotonic() + time_s
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise TrainingCancelled or TrainingError when it is time to stop."""
        if self._asked:
            raise TrainingCancelled("the training run was cancelled")
        if time.monotonic() > self._deadline:
            raise TrainingError(f"the run used up its time bound{TIME_ADVICE}")


def bound_memory(limit_bytes: int, give_up: Callable[[str], None]) -> None:
    """Watch the peak resident size from a thread; call ``give_up`` when it passes the bound."""

    def watch() -> None:
        while peak_bytes() <= limit_bytes:
            time.sleep(_MEMORY_CHECK_S)
        give_up(f"the run needs more than its {limit_bytes} bytes of memory{MEMORY_ADVICE}")

    threading.Thread(target=watch, name="memory-bound", daemon=True).start()


def peak_bytes() -> int:
    """Return the peak resident size of this program alone.

    Linux keeps getrusage's figure across vfork and exec (getrusage(2), BUGS), so a child of a big
    daemon would begin with the daemon's peak; VmHWM (proc(5)) begins anew with each exec.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
