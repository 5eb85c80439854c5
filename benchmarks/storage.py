"""Adding and fetching a blob in the embedded store, against ``ipfs add`` and ``ipfs cat``.

``python benchmarks/storage.py [--mib 10 1024] [--rounds 3]``: each round adds the same file to each
store and reads it back from each into a file. Prints MiB/s of the median, the ratios to Kubo, the
seconds of processor time of each, and the memory of this process above idle at the peak. Kubo runs
as its command, without a daemon, so its start is part of its time. The plain copy, flushed, is what
no store that waits for the disk can beat.

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
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from viz.domain.units import Cid
from viz.storage.embedded import EmbeddedBlobStore

MIB = 1 << 20
SAME = "same promises"
COPY = "plain copy, flushed"
T = TypeVar("T")
BUILT = Path(__file__).parents[1] / "scripts" / "kubo" / "bin" / "ipfs"


@dataclass(frozen=True, slots=True)
class Took:
    """How long a call took, and how much processor time it and its child processes had."""

    seconds: float
    cpu_s: float


class Store(Protocol):
    """What is measured of each store."""

    def add(self, source: Path) -> Cid: ...

    def read(self, cid: Cid, target: Path) -> None: ...


def timed(work: Callable[[], T]) -> tuple[Took, T]:
    """Return what a call takes, and its result."""
    # What was written before must not be flushed within it.
    os.sync()
    cpu_s, began = _cpu_s(), time.perf_counter()
    result = work()
    return Took(time.perf_counter() - began, _cpu_s() - cpu_s), result


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

    def add(self, source: Path) -> Cid:
        """Add a file; return its CID."""
        words = ("add", "-Q", "--progress=false", "--cid-version=1")
        return Cid(self._run(*words, str(source)).strip())

    def read(self, cid: Cid, target: Path) -> None:
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


class Embedded:
    """The store that is measured."""

    def __init__(self, folder: Path) -> None:
        self._store = EmbeddedBlobStore(folder)

    def add(self, source: Path) -> Cid:
        """Add a file; return its CID."""
        return asyncio.run(self._store.add(source))

    def read(self, cid: Cid, target: Path) -> None:
        """Write a blob to a file."""
        asyncio.run(self._store.fetch(cid, target, max_bytes=2**40))


def measured(binary: Path, folder: Path, mib: int, rounds: int) -> dict[str, list[Took]]:
    """Return what each round took, by what was measured.

    One store is made, used and removed after the other, and another one is the first of each round:
    where memory that is new to this machine costs more, each of them pays for it in its turn.
    """
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    stores: list[tuple[str, str, Callable[[Path], Store]]] = [
        ("add", "fetch", Embedded),
        ("ipfs add", "ipfs cat", lambda place: Kubo(binary, place, promises=False)),
        (
            f"ipfs add, {SAME}",
            f"ipfs cat, {SAME}",
            lambda place: Kubo(binary, place, promises=True),
        ),
    ]
    took: dict[str, list[Took]] = {}
    for number in range(rounds):
        first = number % len(stores)
        for adding, reading, opened in stores[first:] + stores[:first]:
            place, target = folder / "store", folder / "target"
            store = opened(place)
            # Ours forgets what it read; Kubo must not pay for that.
            _read_through(source)
            added, cid = timed(partial(store.add, source))
            read, _ = timed(partial(store.read, cid, target))
            took.setdefault(adding, []).append(added)
            took.setdefault(reading, []).append(read)
            shutil.rmtree(place)
            target.unlink()
        copied, _ = timed(partial(_copy, source, folder / "copy"))
        took.setdefault(COPY, []).append(copied)
        (folder / "copy").unlink()
    return took


def _read_through(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as plain, target.open("wb") as copy:
        shutil.copyfileobj(plain, copy, MIB)
        copy.flush()
        os.fsync(copy.fileno())


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
            for of in (kubo, f"{kubo}, {SAME}", COPY):
                theirs_s, theirs_cpu_s = middle(took[of])
                print(
                    f"{of:25} {mib / theirs_s:8.0f} MiB/s {theirs_cpu_s:8.2f} CPU s   {name} is "
                    f"{theirs_s / ours_s:.2f} of it"
                )
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle_kib
    print(f"memory above idle at the peak: {peak_kib / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
