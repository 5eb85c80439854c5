"""Adding and fetching a blob in the embedded store, against ``ipfs add`` and ``ipfs cat``.

``python benchmarks/storage.py [--mib 10 1024] [--rounds 3]``: each round adds the same file to both
and reads it back from both into a file. Prints MiB/s of the median, the ratios to Kubo, and the
memory of this process above idle at the peak. Kubo runs as its command, without a daemon, so its
start is part of its time. As it comes, it does not wait for the disk when it adds (its repository
has ``"sync": false``), and neither hashes nor flushes what it reads; ours does all three.
Goals: adding at least 1.0 of Kubo, fetching at least 2.0, within 64 MiB of memory. Kubo is
KUBO_BIN, or what ``scripts/setup --kubo`` built. Runs on the core install.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from viz.storage.base import root_of_source
from viz.storage.embedded import EmbeddedBlobStore

MIB = 1 << 20
BUILT = Path(__file__).parents[1] / "scripts" / "kubo" / "bin" / "ipfs"


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Kubo:
    """The ``ipfs`` command on a repository of its own."""

    def __init__(self, binary: Path, repository: Path) -> None:
        self._binary = binary
        self._environment = os.environ | {"IPFS_PATH": str(repository), "IPFS_TELEMETRY": "off"}
        self._run("init", "--empty-repo")

    def add(self, source: Path) -> str:
        """Add a file; return its CID."""
        return self._run("add", "-Q", "--progress=false", "--cid-version=1", str(source)).strip()

    def cat(self, cid: str, target: Path) -> None:
        """Write a blob to a file."""
        with target.open("wb") as file:
            subprocess.run(
                [self._binary, "cat", "--progress=false", cid],
                env=self._environment,
                check=True,
                stdout=file,
                stderr=subprocess.DEVNULL,
            )

    def _run(self, *words: str) -> str:
        return subprocess.run(
            [self._binary, *words],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def measured(binary: Path, folder: Path, mib: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, by what was measured."""
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    took: dict[str, list[float]] = {}
    for number in range(rounds):
        place = folder / str(number)
        place.mkdir()
        for name, seconds in one_round(binary, place, source).items():
            took.setdefault(name, []).append(seconds)
        shutil.rmtree(place)
    return took


def one_round(binary: Path, place: Path, source: Path) -> dict[str, float]:
    """Add and read the source once in each store; return the seconds of each."""
    kubo, store = Kubo(binary, place / "kubo"), EmbeddedBlobStore(place / "embedded")
    size, target = source.stat().st_size, place / "target"
    cid = root_of_source(source)
    works: dict[str, Callable[[], object]] = {
        "ipfs add": lambda: kubo.add(source),
        "add": lambda: asyncio.run(store.add(source)),
        "ipfs cat": lambda: kubo.cat(cid, target),
        "fetch": lambda: asyncio.run(store.fetch(cid, target, max_bytes=size)),
    }
    took = {}
    for name, work in works.items():
        # What was written before a measurement must not be flushed within it.
        os.sync()
        took[name] = timed(work)
    return took


def main() -> None:
    """Measure, and print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, nargs="+", default=[10, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    binary = Path(os.environ.get("KUBO_BIN") or shutil.which("ipfs") or BUILT)
    if not binary.is_file():
        parser.error("no Kubo here: run scripts/setup --kubo, or set KUBO_BIN")
    idle_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for mib in given.mib:
        with tempfile.TemporaryDirectory() as folder:
            took = measured(binary, Path(folder), mib, given.rounds)
        median = {name: statistics.median(seconds) for name, seconds in took.items()}
        print(f"{mib} MiB, median of {given.rounds} rounds")
        for name, of in (("add", "ipfs add"), ("fetch", "ipfs cat")):
            print(
                f"{name:6} {mib / median[name]:8.0f} MiB/s   {of} {mib / median[of]:8.0f} MiB/s"
                f"   {median[of] / median[name]:5.2f} of it"
            )
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle_kib
    print(f"memory above idle at the peak: {peak_kib / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
