"""Build and load the engine's own forward pass, compiled on this machine.

``viz.engine.embedded.native_check`` checks its results, ``model`` runs it. The library's file name
is a hash of its sources, the compiler, the processor and torch's version, so a moved or upgraded
installation builds it again. Every failure is a NativeUnavailable with the reason, and the engine
then serves with torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.processor import read_processor

if TYPE_CHECKING:
    import torch

_SOURCES: Final = tuple(
    Path(__file__).parent / name
    for name in (
        "kernels.cpp",
        "attention.h",
        "batch.h",
        "lora.h",
        "products.h",
        "team.h",
        "vectors.h",
    )
)
_FLAGS: Final = ("-std=c++17", "-O2", "-march=native", "-ffp-contract=fast", "-pthread", "-fPIC")
_BUILD_TIMEOUT_S: Final = 120
_VERSION_TIMEOUT_S: Final = 20
_KEPT_BUILDS: Final = 4
_PANEL: Final = 16


class NativeUnavailable(Exception):
    """The compiled pass cannot be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Panels:
    """A bf16 weight (width, depth) in the layout of ``Kernels.linear``."""

    words: torch.Tensor
    width: int
    depth: int


def pack(weight: torch.Tensor) -> Panels:
    """Convert a bf16 weight (width, depth) to panels: (panels, depth, 8 words of two columns)."""
    import torch

    width, depth = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -width % _PANEL))
    words = padded.view(-1, 2, 8, depth).permute(0, 3, 2, 1).contiguous()
    return Panels(words, width, depth)


class Kernels:
    """The loaded library. All tensors are float32 and contiguous; calls release the GIL."""

    def __init__(self, library: ctypes.CDLL, name: str, threads: int) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_long
        self._linear, self.room, self.run = library.viz_linear, library.viz_room, library.viz_run
        self._linear.argtypes = [pointer, number, number, pointer, number, pointer, pointer]
        self._linear.argtypes += [ctypes.c_int]
        self.room.argtypes, self.room.restype = [pointer, number, ctypes.c_int], number
        self.run.argtypes = [pointer, pointer, ctypes.c_int]
        for function in (self._linear, self.run):
            function.restype, function.errcheck = ctypes.c_char_p, _refuse
        self.name, self.threads = name, threads

    def linear(self, x: torch.Tensor, panels: Panels) -> torch.Tensor:
        """Return x @ W.T: (rows, depth) -> (rows, width)."""
        import torch

        rows, depth = x.shape
        x, y, room = x.contiguous(), torch.empty(rows, panels.width), torch.empty(rows * depth)
        self._linear(
            x.data_ptr(),
            rows,
            depth,
            panels.words.data_ptr(),
            panels.width,
            y.data_ptr(),
            room.data_ptr(),
            self.threads,
        )
        return y


def _refuse(wrong: Any, function: Any, arguments: Any) -> Any:
    """Raise RuntimeError if a call refused its arguments, which it checks before it computes."""
    if wrong is not None:
        raise RuntimeError(f"the compiled pass refuses a batch: {wrong.decode()}")


def fits(head_dim: int, hidden: int, intermediate: int) -> bool:
    """Return whether these sizes are multiples of the vector loops' steps."""
    return head_dim % 16 == 0 and hidden % 8 == 0 and intermediate % 8 == 0


def load_unchecked(directory: Path, threads: int) -> Kernels:
    """Return the compiled pass; build it into ``directory`` first if needed (takes seconds).

    ``viz.engine.embedded.native_check`` checks its results. Raises NativeUnavailable if there is no
    compiler, or the build fails.
    """
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise NativeUnavailable("no C++ compiler: install g++ for a faster engine")
    try:
        path = directory / f"kernels-{_key(compiler)}.so"
        return Kernels(_library(compiler, path), path.stem, threads)
    except (OSError, subprocess.SubprocessError, AttributeError, ValueError) as error:
        raise NativeUnavailable(f"the build failed: {error}") from error


def _library(compiler: str, path: Path) -> ctypes.CDLL:
    record = path.with_suffix(".sha256")
    try:
        # Loading an incomplete library would crash the process: compare its hash first.
        sound = record.read_text("ascii") == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        sound = False
    if not sound:
        _build(compiler, path)
        _prune(path)
        record.write_text(hashlib.sha256(path.read_bytes()).hexdigest(), "ascii")
    return ctypes.CDLL(str(path))


def _key(compiler: str) -> str:
    import torch

    version = _run([compiler, "--version"], _VERSION_TIMEOUT_S).stdout
    sources = [path.read_text("utf-8") for path in _SOURCES]
    processor = read_processor()
    # What decides the usable instructions.
    machine = " ".join([platform.machine(), processor.model, *sorted(processor.flags)])
    parts = (*sources, " ".join(_FLAGS), version, machine, torch.__version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _run(command: list[str], timeout_s: int) -> subprocess.CompletedProcess[str]:
    """Run a command of the compiler; its output need not be UTF-8."""
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )


def _build(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, "kernels.so")
        command = [compiler, *_FLAGS, "-shared", str(_SOURCES[0]), "-o", str(made)]
        done = _run(command, _BUILD_TIMEOUT_S)
        if done.returncode:
            raise NativeUnavailable(f"{compiler} failed: {done.stderr.strip()[:300]}")
        made.replace(path)


def _prune(newest: Path) -> None:
    """Delete all but the newest builds: each upgrade of compiler, torch or Viz leaves one."""
    with contextlib.suppress(OSError):  # another process may delete them at the same time
        builds = [path for path in newest.parent.glob("kernels-*.so") if path != newest]
        builds.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in builds[_KEPT_BUILDS - 1 :]:
            path.unlink()
            path.with_suffix(".sha256").unlink(missing_ok=True)
