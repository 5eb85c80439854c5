"""The engine's own decoding products, compiled on this machine and kept on disk.

Owns building, checking and calling ``kernels.cpp``. Does not know the model. The library is kept
under a key of its source, the compiler, the processor and torch's version, so a moved or upgraded
installation builds anew. Whatever goes wrong is a NativeUnavailable with its reason, and the
engine serves through torch instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_SOURCE: Final = Path(__file__).parent / "kernels.cpp"
_FLAGS: Final = ("-std=c++17", "-O2", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC")
_BUILD_TIMEOUT_S: Final = 120
_PANEL: Final = 16


class NativeUnavailable(Exception):
    """The compiled products cannot be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Panels:
    """A bf16 weight (width, depth) laid out for ``Kernels.linear``."""

    words: torch.Tensor
    width: int
    depth: int


@dataclass(frozen=True, slots=True)
class LoraCall:
    """The pointers of one group of one layer for the adapters of a batch; see ``viz_lora``."""

    count: int
    members: int
    rows: ctypes.Array[ctypes.c_int64]
    ranks: ctypes.Array[ctypes.c_int64]
    down: ctypes.Array[ctypes.c_void_p]
    ups: ctypes.Array[ctypes.c_void_p]
    widths: ctypes.Array[ctypes.c_int64]


def pack(weight: torch.Tensor) -> Panels:
    """Lay out a bf16 weight (width, depth): (panels, depth, 8 words of two columns)."""
    import torch

    width, depth = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -width % _PANEL))
    words = padded.view(-1, 2, 8, depth).permute(0, 3, 2, 1).contiguous()
    return Panels(words, width, depth)


class Kernels:
    """The loaded library. All tensors float32 and contiguous; calls release the GIL."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._linear, self._lora = library.viz_linear, library.viz_lora
        pointer, number = ctypes.c_void_p, ctypes.c_long
        self._linear.argtypes = [pointer, number, number, pointer, number, pointer, pointer]
        self._linear.argtypes += [ctypes.c_int]
        self._lora.argtypes = [number, *[pointer] * 4, number, pointer, pointer, number, pointer]
        self._lora.argtypes += [number, ctypes.c_int]
        self._norm, self._swiglu = library.viz_norm, library.viz_swiglu
        self._attend = library.viz_attend
        self._norm.argtypes = [pointer, pointer, number, number, pointer, ctypes.c_float]
        self._norm.argtypes += [pointer, ctypes.c_int]
        self._swiglu.argtypes = [pointer, number, number, pointer, ctypes.c_int]
        self._attend.argtypes = [pointer, number, *[pointer] * 5, *[number] * 4, pointer]
        self._attend.argtypes += [ctypes.c_int]
        for function in (self._linear, self._lora, self._norm, self._swiglu, self._attend):
            function.restype = None
        self._threads = threads
        self._scratch: torch.Tensor | None = None

    def linear(self, x: torch.Tensor, panels: Panels) -> torch.Tensor:
        """Return x @ W.T: (rows, depth) -> (rows, width)."""
        import torch

        rows, depth = x.shape
        if self._scratch is None or self._scratch.numel() < rows * depth:
            self._scratch = torch.empty(rows * depth)
        x = x.contiguous()
        y = torch.empty(rows, panels.width)
        self._linear(
            x.data_ptr(),
            rows,
            depth,
            panels.words.data_ptr(),
            panels.width,
            y.data_ptr(),
            self._scratch.data_ptr(),
            self._threads,
        )
        return y

    def lora(self, call: LoraCall, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add each adapter's product to its row of ``y``, in place."""
        x = x.contiguous()
        self._lora(
            call.count,
            call.rows,
            call.ranks,
            call.down,
            call.ups,
            call.members,
            call.widths,
            x.data_ptr(),
            x.shape[1],
            y.data_ptr(),
            y.shape[1],
            self._threads,
        )

    def norm(
        self, x: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Add ``added`` to ``x`` in place, and return x normed (RMSNorm)."""
        import torch

        out = torch.empty_like(x)
        self._norm(
            x.data_ptr(),
            None if added is None else added.data_ptr(),
            x.shape[0],
            x.shape[1],
            weight.data_ptr(),
            epsilon,
            out.data_ptr(),
            self._threads,
        )
        return out

    def swiglu(self, both: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up of (rows, gate and up side by side)."""
        import torch

        rows, width = both.shape[0], both.shape[1] // 2
        out = torch.empty(rows, width)
        self._swiglu(both.data_ptr(), rows, width, out.data_ptr(), self._threads)
        return out

    def attend(
        self,
        mixed: torch.Tensor,
        positions: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        cached: tuple[torch.Tensor, torch.Tensor],
        heads: int,
    ) -> torch.Tensor:
        """Rotate, cache and attend one token a slot; a negative position skips its slot.

        ``mixed`` (slots, q k v side by side), ``angles`` cosines and sines (capacity, dim / 2),
        ``cached`` one layer's keys and values (slots, key heads, capacity, dim).
        """
        import torch

        keys, values = cached
        _, kv_heads, capacity, dim = keys.shape
        out = torch.empty(mixed.shape[0], heads * dim)
        self._attend(
            mixed.data_ptr(),
            mixed.shape[0],
            positions.data_ptr(),
            angles[0].data_ptr(),
            angles[1].data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            heads,
            kv_heads,
            dim,
            capacity,
            out.data_ptr(),
            self._threads,
        )
        return out


def fits(head_dim: int, hidden: int, intermediate: int) -> bool:
    """Tell whether the vector loops divide these sizes."""
    return head_dim % 16 == 0 and hidden % 8 == 0 and intermediate % 8 == 0


def load_kernels(directory: Path, threads: int) -> Kernels:
    """Return the compiled products, building them into ``directory`` if needed (seconds).

    Raises NativeUnavailable: no compiler, a failed build, or numbers that differ from torch's.
    """
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise NativeUnavailable("no C++ compiler: install g++ for a faster engine")
    path = directory / f"kernels-{_key(compiler)}.so"
    try:
        if not path.exists():
            _build(compiler, path)
        kernels = Kernels(ctypes.CDLL(str(path)), threads)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        raise NativeUnavailable(f"the build failed: {error}") from error
    _check(kernels)
    return kernels


def lora_call(
    rows: Sequence[int],
    ranks: Sequence[int],
    down: Sequence[int],
    ups: Sequence[int],
    widths: Sequence[int],
) -> LoraCall:
    """Bundle addresses for ``Kernels.lora``; the caller keeps the tensors alive."""
    count, members = len(rows), len(widths)
    return LoraCall(
        count,
        members,
        (ctypes.c_int64 * count)(*rows),
        (ctypes.c_int64 * count)(*ranks),
        (ctypes.c_void_p * count)(*down),
        (ctypes.c_void_p * len(ups))(*ups),
        (ctypes.c_int64 * members)(*widths),
    )


def _key(compiler: str) -> str:
    import torch

    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, timeout=20, check=False
    ).stdout
    parts = (_SOURCE.read_text("utf-8"), " ".join(_FLAGS), version, _processor(), torch.__version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _processor() -> str:
    """Return what decides which instructions may run: the architecture and the CPU's flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return platform.machine() + "\n".join(sorted(set(named)))


def _build(compiler: str, path: Path) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    # torch's own OpenMP runtime, where it brings one: two runtimes would fight for the cores.
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    runtime = [str(found[0])] if found else ["-fopenmp"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part, made = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        for command in (
            [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(part)],
            [compiler, "-shared", str(part), "-o", str(made), *runtime],
        ):
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_BUILD_TIMEOUT_S,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
            if done.returncode:
                raise NativeUnavailable(f"{command[0]} failed: {done.stderr.strip()[:300]}")
        made.replace(path)


def _check(kernels: Kernels) -> None:
    """Compare one odd-sized product with torch's: a miscompiled library must not serve."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, 72, generator=generator)
    weight = torch.randn(40, 72, generator=generator).bfloat16()
    if not torch.allclose(kernels.linear(x, pack(weight)), x @ weight.float().t(), atol=1e-3):
        raise NativeUnavailable("the compiled products give wrong numbers")
