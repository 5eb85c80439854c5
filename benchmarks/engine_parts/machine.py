"""The machine under the figures: what it is, and the roofs no decoder can pass on it.

Owns the description, two measured roofs (reads from memory, multiply-adds) and the bound that the
design sets its goals against: torch's matrix products of one step alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_FLAGS = ("-O2", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")


def describe(threads: int) -> None:
    """Print the processor, the thread counts and the versions that decide the figures."""
    import torch

    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    notable = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    print(
        f"CPU: {name}, {os.cpu_count()} cores, {' '.join(f for f in notable if f in flags)}; "
        f"load {os.getloadavg()[0]:.1f} at start"
    )
    print(
        f"threads: {threads} for every contender (torch has {torch.get_num_threads()}); "
        f"Python {platform.python_version()}"
    )
    print("versions: " + ", ".join(map(_versioned, ("torch", "transformers", "peft"))), flush=True)


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"


@dataclass(frozen=True, slots=True)
class Roofs:
    """Reads in bytes/s and float32 operations/s (a multiply-add counts two), all threads."""

    read: float
    flops: float

    def step_s(self, read_bytes: int, flops: int) -> float:
        """Return the least time a step can take that reads and computes this much."""
        return max(read_bytes / self.read, flops / self.flops)


def measure_roofs(threads: int) -> Roofs:
    """Measure both roofs, best of several; needs a C++ compiler."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "roof.so")
        source = Path(__file__).with_name("roof.cpp")
        subprocess.run(["g++", *_FLAGS, str(source), "-o", str(made)], check=True, timeout=120)
        library = ctypes.CDLL(str(made))
    sink = torch.tensor([0.999, 0.001, 0.0])
    data = torch.ones(64 << 20)
    place, numbers = ctypes.c_void_p(sink.data_ptr()), 5_000_000
    reads, sums = [], []
    for _ in range(6):
        began = time.perf_counter()
        library.roof_read(
            ctypes.c_void_p(data.data_ptr()), ctypes.c_long(data.numel()), threads, place
        )
        reads.append(time.perf_counter() - began)
        began = time.perf_counter()
        library.roof_multiply(ctypes.c_long(numbers), threads, place)
        sums.append(time.perf_counter() - began)
    operations = 2 * 12 * library.roof_lanes() * numbers * threads
    return Roofs(data.numel() * 4 / min(reads), operations / min(sums))


def step_work(base: Any, rows: int, adapter_bytes: int, seen_tokens: int) -> tuple[int, int]:
    """Return (bytes read, operations) of one decoding step at ``rows`` streams.

    Weights once as bf16, each stream's own float32 cache and adapter.
    """
    shape = base.shape
    numbers = sum(out * into for _, (out, into) in shape.modules())
    numbers += shape.vocabulary * shape.hidden
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * seen_tokens * 4
    own = rows * (cache + adapter_bytes)
    operations = 2 * rows * (numbers + adapter_bytes // 4 + cache // 8 * 3)
    return 2 * numbers + own, operations


def products_alone(base: Any, rows: int) -> float:
    """Return tokens/s of torch's matrix products of a step alone, in its faster dtype."""
    import torch

    shape = base.shape
    wide = shape.heads * shape.head_dim + 2 * shape.kv_heads * shape.head_dim
    sizes = [
        (wide, shape.hidden),
        (shape.hidden, shape.heads * shape.head_dim),
        (2 * shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    ]
    best = float("inf")
    for dtype in (torch.float32, torch.bfloat16):
        layers = [[torch.randn(size).to(dtype) for size in sizes] for _ in range(shape.layers)]
        head = torch.randn(shape.vocabulary, shape.hidden).to(dtype)
        x = {into: torch.randn(rows, into).to(dtype) for _, into in sizes}
        with torch.inference_mode():
            for _ in range(4):
                began = time.perf_counter()
                for layer in layers:
                    for weight in layer:
                        torch.nn.functional.linear(x[weight.shape[1]], weight)
                torch.nn.functional.linear(x[shape.hidden], head)
                best = min(best, time.perf_counter() - began)
                if time.perf_counter() - began > 1.0:
                    break
    return rows / best
