"""What a whole node holds while nobody asks, how soon it is healthy, and what streams add.

Owns the start of ``viz up`` (chain and node) in a folder of its own; the figures are those of the
node's process alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.engine_parts.own import Contender

from viz.local_socket import free_port

HEALTHY_S = 300.0
SETTLED_S = 5.0
STARTS = 3
GOAL_MB, GOAL_S = 900, 8


def memory_mb(process: int) -> dict[str, float]:
    """Return resident memory in MB (10^6 bytes): all, our own pages, pages of files."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text("ascii").splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    whole, own = kib["Rss"] * 1024 / 1e6, kib["Anonymous"] * 1024 / 1e6
    return {"resident": whole, "own": own, "files": whole - own}


def idle_part(cache: Path) -> None:
    """Print the memory of an idle node with default settings, and start to healthy."""
    with tempfile.TemporaryDirectory(prefix="viz-bench-idle-") as folder:
        Path(folder, "models").symlink_to(cache.absolute())
        taken: list[float] = []
        worked: list[float] = []
        held: dict[str, float] = {}
        for start in range(1 + STARTS):  # the first makes keys and contracts, and is not counted
            with _up(Path(folder)) as (process, healthy_s):
                processor_s = _processor_s(process)
                time.sleep(SETTLED_S)
                held = memory_mb(process)
            if start:
                taken.append(healthy_s)
                worked.append(processor_s)
    told = ", ".join(f"{name} {value:.0f}" for name, value in held.items())
    print(
        f"\nan idle node (viz up, default model and settings), MB: {told} (goal: at most {GOAL_MB})"
    )
    spread = f"{min(taken):.1f} to {max(taken):.1f}"
    print(
        f"  start to healthy, chain included, {STARTS} warm starts: median "
        f"{statistics.median(taken):.1f} s ({spread}; goal: at most {GOAL_S}), of which the node's "
        f"process computes {statistics.median(worked):.1f}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


@contextmanager
def _up(folder: Path) -> Iterator[tuple[int, float]]:
    """Run ``viz up``; yield its process once it is healthy, and the seconds that took."""
    chain, port = free_port(), free_port()
    command = [sys.executable, "-m", "viz", "up", "--data-dir", str(folder), "--json"]
    command += ["--rpc-port", str(chain), "--port", str(port)]
    began = time.perf_counter()
    with Path(folder, "log").open("ab") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
    try:
        while not _healthy(port):
            if running.poll() is not None or time.perf_counter() - began > HEALTHY_S:
                sys.exit(f"the node did not start: {Path(folder, 'log').read_text()[-800:]}")
            time.sleep(0.05)
        yield running.pid, time.perf_counter() - began
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(60)


def _processor_s(process: int) -> float:
    """Return the seconds that a process has computed, its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(json.load(answer))
    except (urllib.error.URLError, OSError):
        return False


async def streams_part(own: Contender) -> None:
    """Print what eight streams of 768 + 128 tokens add to this process, and what is left of it."""
    prompt = own.material.long_prompt
    before = memory_mb(os.getpid())["own"]
    runs = [asyncio.create_task(own.stream(0, 128, prompt)) for _ in range(8)]
    most = before
    while not all(run.done() for run in runs):
        await asyncio.sleep(0.2)
        most = max(most, memory_mb(os.getpid())["own"])
    await asyncio.gather(*runs)
    await asyncio.sleep(0.5)
    left = memory_mb(os.getpid())["own"]
    print(
        f"\neight streams of {len(prompt)} + 128 tokens, own memory of the engine's process, MB: "
        f"{before:.0f} before, {most:.0f} at the peak, {left:.0f} after",
        flush=True,
    )
