"""Child processes that do not outlive us.

Owns how a child is tied to its parent's life. A daemon that is killed cannot stop what it started:
an orphan would go on writing the chain's state, or training in a folder that a new run uses. The
kernel tells the child instead (Linux, prctl(2), PR_SET_PDEATHSIG); elsewhere only an orderly stop
ends it. Does not know what the children do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
# Runs in the child before the command itself, without site or environment: some ten milliseconds.
_TIE: Final = (
    "import ctypes, os, sys\n"
    "parent, number = int(sys.argv[1]), int(sys.argv[2])\n"
    f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, number)\n"
    "if os.getppid() != parent: sys.exit('the parent is gone')\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


def tied(command: Sequence[str], at_death: signal.Signals = signal.SIGTERM) -> list[str]:
    """Return ``command`` such that it gets the signal when this process dies, however it dies.

    The first word must be a path. Start it from a thread that lives as long as the process does.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), str(int(at_death)), *command]
