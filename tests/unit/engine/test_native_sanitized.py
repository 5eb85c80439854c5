"""The compiled pass under GCC's sanitizers: no race, no stray access, nothing undefined.

Owns building ``native_stress.cpp`` and running it; what it drives is told there. A compiler without
its sanitizers is a failure that says so: what was not watched was not shown.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from viz.engine.embedded.native.build import _FLAGS, _SOURCES

_STRESS = Path(__file__).parent / "native_stress.cpp"
_ROUNDS = "3"


_OPTIONS = "halt_on_error=1:detect_leaks=0"
pytestmark = pytest.mark.compiles


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": _OPTIONS, "TSAN_OPTIONS": _OPTIONS},
    )


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_no_race_and_no_stray_access(tmp_path: Path, sanitizer: str) -> None:
    """Teams of 1 to 5, callers at once, ragged batches, odd sizes, a fork, threads that lack."""
    compiler, program = shutil.which("g++"), str(tmp_path / "stress")
    assert compiler, "this needs g++ and its sanitizers' runtimes (libtsan, libasan, libubsan)"
    built = _run(
        compiler,
        *_FLAGS,
        *("-O1", "-fno-inline", "-Wall", "-Wextra", "-Werror"),
        *(f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"),
        "-D__builtin_shufflevector=unknown_before_gcc_12",
        *(f"-I{_SOURCES[0].parent}", str(_STRESS), "-o", program),
    )
    assert built.returncode == 0, f"no build with the sanitizer {sanitizer}: {built.stderr[-4000:]}"
    ran = _run(program, _ROUNDS)
    if "unexpected memory mapping" in ran.stderr:  # an older runtime on a newer kernel
        ran = _run("setarch", "--addr-no-randomize", program, _ROUNDS)
    assert (ran.returncode, ran.stderr[-4000:]) == (0, "")
