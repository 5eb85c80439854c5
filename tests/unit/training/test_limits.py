"""What a worker counts against its bounds."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_BIG: Final = 384 << 20
_PEAK: Final = "from viz.training.limits import peak_bytes; print(peak_bytes())"
_PARENT: Final = f"""
import subprocess, sys
held = bytearray(b"x") * {_BIG}
print(subprocess.run([sys.executable, "-c", {_PEAK!r}], check=True, text=True,
                     stdout=subprocess.PIPE, timeout=60).stdout)
{_PEAK}
"""


def test_a_worker_of_a_big_daemon_does_not_begin_at_its_bound() -> None:
    """Protects every run of a node that is larger than max_memory_mib: only its own size counts."""
    done = subprocess.run(
        [sys.executable, "-c", _PARENT],
        env={"PYTHONPATH": "node"},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        timeout=120,
    )
    child, parent = map(int, done.stdout.split())
    assert 0 < child < _BIG / 2 < _BIG <= parent
