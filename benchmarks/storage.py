"""Adding and fetching a blob in the embedded store, against ``ipfs add`` and ``ipfs cat``.

``python benchmarks/storage.py [--mib 10 1024] [--rounds 3]``: each round adds the same file to each
store and reads it back from each into a file. Prints MiB/s of the median, the ratios to Kubo, the
seconds of processor time of each, and the memory of this process above idle at the peak. Kubo runs
as its command, without a daemon, so its start is part of its time.

Kubo is measured twice. As it comes, it does not wait for the disk when it adds (its repository has
``"sync": false``), and neither hashes nor flushes what it reads; ours does all three. With ``same
promises`` it does them too (``"sync": true``, ``Datastore.HashOnRead``, and the file is flushed).
Goals: adding at least 1.0 of Kubo as it comes, fetching at least 2.0, within 64 MiB of memory. Kubo
is KUBO_BIN, or what ``scripts/setup --kubo`` built. Runs on the core install.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from viz.storage.base import root_of_source
from viz.storage.embedded import EmbeddedBlobStore

MIB = 1 << 20
SAME = "same promises"
Work = tuple[str, Callable[[], object]]
BUILT = Path(__file__).parents[1] / "scripts" / "kubo" / "bin" / "ipfs"


@dataclass(frozen=True, slots=True)
class Took:
    """How long a call took, and how much processor time it and its child processes had."""

    seconds: float
    cpu_s: float


def timed(work: Callable[[], object]) -> Took:
    """Return what a call takes."""
    cpu_s, began = _cpu_s(), time.perf_counter()
    work()
    return Took(time.perf_counter() - began, _cpu_s() - cpu_s)


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


class Kubo:
    """The ``ipfs`` command on a repository of its own."""

    def __init__(self, binary: Path, repository: Path, *, promises: bool) -> None:
        """With ``promises`` it flushes and hashes as the embedded store does."""
        self._binary, self._promises = binary, promises
        self._environment = os.environ | {"IPFS_PATH": str(repository), "IPFS_TELEMETRY": "off"}
        self._run("init", "--empty-repo")
        if promises:
            # The specification of the datastore cannot be set by a command.
            settings = repository / "config"
            config = json.loads(settings.read_text())
            config["Datastore"]["HashOnRead"] = True
            for mount in config["Datastore"]["Spec"]["mounts"]:
                if "sync" in mount:
                    mount["sync"] = True
            settings.write_text(json.dumps(config))

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
            if self._promises:
                os.fsync(file.fileno())

    def _run(self, *words: str) -> str:
        return subprocess.run(
            [self._binary, *words],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def measured(binary: Path, folder: Path, mib: int, rounds: int) -> dict[str, list[Took]]:
    """Return what each round took, by what was measured."""
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    took: dict[str, list[Took]] = {}
    for number in range(rounds):
        place = folder / str(number)
        place.mkdir()
        for name, each in one_round(binary, place, source, number).items():
            took.setdefault(name, []).append(each)
        shutil.rmtree(place)
    return took


def one_round(binary: Path, place: Path, source: Path, number: int) -> dict[str, Took]:
    """Add and read the source once in each store, another one first each time."""
    kubo = Kubo(binary, place / "kubo", promises=False)
    same = Kubo(binary, place / "same", promises=True)
    store = EmbeddedBlobStore(place / "embedded")
    size, target = source.stat().st_size, place / "target"
    cid = root_of_source(source)
    adding: list[Work] = [
        ("ipfs add", lambda: kubo.add(source)),
        ("add", lambda: asyncio.run(store.add(source))),
        (f"ipfs add, {SAME}", lambda: same.add(source)),
    ]
    reading: list[Work] = [
        ("ipfs cat", lambda: kubo.cat(cid, target)),
        ("fetch", lambda: asyncio.run(store.fetch(cid, target, max_bytes=size))),
        (f"ipfs cat, {SAME}", lambda: same.cat(cid, target)),
    ]
    first = number % 3
    took = {}
    for name, work in (*adding[first:], *adding[:first], *reading[first:], *reading[:first]):
        # What was written before a measurement must not be flushed within it.
        os.sync()
        took[name] = timed(work)
    return took


def middle(took: list[Took]) -> tuple[float, float]:
    """Return the median seconds, and the median processor time."""
    return (
        statistics.median(each.seconds for each in took),
        statistics.median(each.cpu_s for each in took),
    )


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
        print(f"{mib} MiB, median of {given.rounds} rounds")
        for name, kubo in (("add", "ipfs add"), ("fetch", "ipfs cat")):
            ours_s, ours_cpu_s = middle(took[name])
            print(f"{name:25} {mib / ours_s:8.0f} MiB/s {ours_cpu_s:8.2f} CPU s")
            for of in (kubo, f"{kubo}, {SAME}"):
                theirs_s, theirs_cpu_s = middle(took[of])
                print(
                    f"{of:25} {mib / theirs_s:8.0f} MiB/s {theirs_cpu_s:8.2f} CPU s   {name} is "
                    f"{theirs_s / ours_s:.2f} of it"
                )
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle_kib
    print(f"memory above idle at the peak: {peak_kib / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
