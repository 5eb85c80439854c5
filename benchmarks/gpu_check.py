"""What training and serving do on a CUDA device, against the estimates and against the CPU.

    scripts/gpu_check                       every part, under ten minutes on one card
    scripts/gpu_check --parts gradients,1B  some parts
    scripts/gpu_check --device cpu --small  the parts that a CPU can run, at a tiny size

Each part runs in a process of its own, so that its peak of memory is its own, and prints figures.
The exit status is 0 only if every part that was asked for held. Parts:

- ``weights``: NF4 made on the host is dequantised on the device to the values that are served
- ``gradients``: loss and gradients of a pack at 135M, against the CPU; recomputed, too
- ``repeat``: two equal runs give the same adapter, bit by bit
- ``135M``, ``1B``, ``8B``: a training step on a random base, its memory against the estimate
- ``upstream``: the upstream engine against the same vLLM called directly, where vLLM is installed
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "node")]

STEPS: Final = ("135M", "1B", "8B")
PARTS: Final = ("weights", "gradients", "repeat", *STEPS, "upstream")
# With --small the steps on random bases are the same.
SMALL: Final = ("weights", "gradients", "repeat", "8B", "upstream")
# Seconds of a part and of all, and how far an estimate may be from what was measured.
BOUND_S: Final = 240.0
ALL_S: Final = 590.0
WITHIN: Final = 0.2
# What an 8B may need on the device, in MiB.
MOST_8B: Final = 12 * 1024


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu")
    parser.add_argument("--small", action="store_true", help="tiny bases: seconds on a CPU")
    parser.add_argument("--parts", default="", help=f"some of {','.join(PARTS)}; default: all")
    parser.add_argument("--threads", type=int, default=0, help="of the host; 0: all")
    parser.add_argument("--vllm-python", default="", help="a Python that has vLLM for CUDA")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.parts = chosen.parts or ",".join(SMALL if chosen.small else PARTS)
    unknown = set(chosen.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {sorted(unknown)[0]}: {', '.join(PARTS)}")
    return chosen


def main() -> int:
    """Run the parts, or in a child process one of them; return the exit status."""
    chosen = arguments()
    if chosen.part:
        return _child(chosen)
    if chosen.device.startswith("cuda") and (missing := _no_cuda()):
        print(f"no check: {missing}")
        return 2
    failed: list[str] = []
    began = time.monotonic()
    for part in [part for part in PARTS if part in chosen.parts.split(",")]:
        started = time.monotonic()
        held = _run(part, chosen, min(BOUND_S, ALL_S - (started - began)))
        took = f"{time.monotonic() - started:.0f} s"
        print(f"{part:10} {'held' if held else 'FAILED'} in {took}\n", flush=True)
        if not held:
            failed.append(part)
    print(
        f"{'everything held' if not failed else 'failed: ' + ', '.join(failed)}, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 1 if failed else 0


def _no_cuda() -> str:
    """Return why there is no CUDA device that torch can use; empty if there is one."""
    try:
        import torch
    except ImportError:
        return "torch is not installed in this Python: give scripts/gpu_check --wheels FOLDER"
    if torch.cuda.is_available():
        return ""
    built = torch.version.cuda or "no CUDA"
    return f"torch {torch.__version__} (built for {built}) finds no CUDA device: try --device cpu"


def _run(part: str, chosen: argparse.Namespace, bound_s: float) -> bool:
    """Run a part in a child process, print its figures, and return whether it held."""
    from viz.training.environment import child_environment
    from viz.training.run import TrainingSettings

    if bound_s <= 0:
        print(f"  not begun: the whole check may take {ALL_S:.0f} s")
        return False
    command = [sys.executable, __file__, "--part", part, "--device", chosen.device]
    command += ["--threads", str(chosen.threads), "--vllm-python", chosen.vllm_python]
    command += ["--small"] if chosen.small else []
    environment = {**os.environ, **child_environment(TrainingSettings(threads=_threads(chosen)))}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=bound_s,
            env=environment,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        print(f"  it did not end within {bound_s:.0f} s")
        return False
    lines = done.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1])
        figures, findings = found["figures"], found["findings"]
    except (IndexError, ValueError, KeyError, TypeError):
        print(f"  it ended with status {done.returncode} before its result; its last words:")
        print("\n".join(f"    {line}" for line in done.stderr.strip().splitlines()[-12:]))
        return False
    for line in lines[:-1]:
        print(f"  {line}")
    for name, value in figures.items():
        print(f"  {name}: {value}")
    for finding in findings:
        print(f"  NOT HELD: {finding}")
    return not findings and done.returncode == 0


def _threads(chosen: argparse.Namespace) -> int:
    return chosen.threads or min(16, os.cpu_count() or 1)


def _child(chosen: argparse.Namespace) -> int:
    """Run one part in this process; its last line is its result as JSON."""
    with tempfile.TemporaryDirectory(prefix="viz-gpu-check-") as folder:
        figures, findings = _part(chosen, Path(folder))
    print(json.dumps({"figures": figures, "findings": findings}))
    return 0


def _part(chosen: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    from benchmarks.gpu_parts import numbers, serving
    from benchmarks.gpu_parts.steps import settings_for

    threads, small = _threads(chosen), bool(chosen.small)
    base = "tiny" if small else "135M"
    compare: Mapping[str, Callable[[], tuple[dict[str, Any], list[str]]]] = {
        "weights": lambda: numbers.weights_part(chosen.device, small=small),
        "gradients": lambda: numbers.gradients_part(base, folder, chosen.device, threads),
        "repeat": lambda: numbers.repeat_part(base, folder, chosen.device, threads),
        "upstream": lambda: serving.upstream_part(chosen.device, chosen.vllm_python, folder),
    }
    if chosen.part in compare:
        return compare[chosen.part]()
    settings = settings_for(chosen.device, threads=threads, recompute=chosen.part != "135M")
    return _step(chosen.part, folder, settings, small=small)


def _step(
    name: str, folder: Path, settings: Any, *, small: bool
) -> tuple[dict[str, Any], list[str]]:
    """Make steps on a random base; say where memory is not what was estimated."""
    from benchmarks.gpu_parts.steps import StepSize, step_part

    rows, tokens = (4, 64) if small else (16, 2_048)
    size = StepSize("tiny" if small else name, rows, tokens, 2 if small else 4)
    figures = step_part(size, folder, settings)
    findings = []
    # The tiny base is all program: nothing is learned of the rest from it.
    places = [] if small else [place for place in ("host", "device") if f"{place}MiB" in figures]
    for place in places:
        measured, estimated = figures[f"{place}MiB"], figures[f"{place}EstimateMiB"]
        if place == "device" and abs(measured - estimated) > WITHIN * measured:
            findings.append(f"{measured} MiB on the device, {estimated} estimated")
        if measured > estimated * (1 + WITHIN):
            findings.append(f"{measured} MiB on the {place} exceed the {estimated} estimated")
    if name == "8B" and figures.get("deviceMiB", 0) > MOST_8B:
        findings.append(f"{figures['deviceMiB']} MiB on the device, {MOST_8B} at most")
    losses = figures["losses"]
    if not all(map(math.isfinite, losses)):
        findings.append(f"the losses are not finite: {losses}")
    return figures, findings


if __name__ == "__main__":
    sys.exit(main())
