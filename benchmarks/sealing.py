"""Sealing and opening a blob with age, against a plain copy of the same bytes to the same disk.

``python benchmarks/sealing.py [--mib 64] [--rounds 5]``: each round copies, seals and opens in
turn, each flushed to disk. Prints MiB/s, the ratios to the copy, the seconds of processor time, and
the memory above idle at the peak. ``age`` is the library alone, from memory to nowhere: what
sealing cannot be faster than.
Goal: sealing at least 0.5 of the copy, within 64 MiB of memory. Runs on the core install.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyrage

from viz.storage.sealing import new_identity, recipient_of, seal, unseal

MIB = 1 << 20


def copied(source: Path, target: Path) -> None:
    """Copy in pieces as large as sealing's, and flush to disk."""
    with source.open("rb") as plain, target.open("wb") as copy:
        shutil.copyfileobj(plain, copy, 64 * 1024)
        copy.flush()
        os.fsync(copy.fileno())


class Nowhere:
    """Takes what is written, and keeps nothing."""

    def write(self, data: bytes) -> int:
        """Take the data."""
        return len(data)

    def flush(self) -> None:
        """Do nothing."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return how many seconds a call takes, and its processor time."""
    began, cpu_began_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu_began_s


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    key = new_identity()
    names = ("copy", "seal", "open", "age")
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    recipient = pyrage.x25519.Recipient.from_str(recipient_of(key))
    with tempfile.TemporaryDirectory() as folder:
        plain, copy, sealed, opened = (
            Path(folder) / name for name in ("plain", "copy", "sealed", "opened")
        )
        with plain.open("wb") as file:
            for _ in range(given.mib):
                file.write(os.urandom(MIB))
        idle_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(given.rounds):
            took["copy"].append(timed(lambda: copied(plain, copy)))
            took["seal"].append(timed(lambda: seal(plain, sealed, key)))
            took["open"].append(
                timed(lambda: unseal(sealed, opened, key, max_bytes=given.mib * MIB))
            )
            for each in (copy, sealed, opened):
                each.unlink()
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle_kib
        plain_bytes = plain.read_bytes()
        for _ in range(given.rounds):
            took["age"].append(
                timed(lambda: pyrage.encrypt_io(io.BytesIO(plain_bytes), Nowhere(), [recipient]))
            )
    base = statistics.median(seconds for seconds, _ in took["copy"])
    print(f"{given.mib} MiB, median of {given.rounds} rounds")
    for name, each_took in took.items():
        median, cpu_s = (statistics.median(one) for one in zip(*each_took, strict=True))
        print(
            f"{name:5} {given.mib / median:8.0f} MiB/s   {base / median:5.2f} of the copy "
            f"{cpu_s:8.3f} CPU s"
        )
    print(f"memory above idle at the peak: {peak_kib / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
