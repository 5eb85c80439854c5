"""What payment adds to a request: the same server with and without it, in turn and under load.

    python benchmarks/payments.py [--profile] [--memory] [--recovery] [--claims]

The server runs on one core, the load on another, and both sides of a comparison are the same
process: the same chat, from an engine whose tokens cost next to nothing, so that what is left is
the price of paying. The paid side has its real ledger on this disk. Floors of the same run: what
the disk takes for one durable commit, and what aiohttp takes for an empty answer. Judge by the
ratios and by the CPU time: wall times are the machine's, too.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "node")]

from benchmarks.payment_parts import load, recovery, steps  # noqa: E402
from benchmarks.payment_parts.load import Load, Measured  # noqa: E402
from benchmarks.payment_parts.server import Options, serve  # noqa: E402

MOST_A_SECOND = 4_000
STATED = ("cpu_s", "commits")


@dataclass
class Server:
    """The server's process, and the buyers that it opened channels for."""

    pipe: Connection
    paid: str
    free: str
    buyers: list[load.Buyer]

    def tell(self, order: str, value: Any = None) -> Any:
        """Give the server an order and return its answer."""
        self.pipe.send((order, value))
        return self.pipe.recv()


@contextmanager
def running_server(folder: Path, asked: argparse.Namespace) -> Iterator[Server]:
    """Run the server on the first core; keep this process on the last one."""
    everywhere = os.sched_getaffinity(0)
    cores = sorted(everywhere) if asked.pin else []
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    channels = max(64, *asked.buyers)  # as many as the phases that are always run need
    options = Options(folder, cores[0] if len(cores) > 1 else None, channels, asked.tokens)
    process = context.Process(target=serve, args=(theirs, options), daemon=True)
    process.start()
    theirs.close()
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[-1]})
    found = ours.recv()
    buyers = [
        load.Buyer(index, token, found["need"]) for index, token in enumerate(found["tokens"])
    ]
    try:
        yield Server(ours, found["paid"], found["free"], buyers)
    finally:
        ours.send(("stop", None))
        process.join(30)
        os.sched_setaffinity(0, everywhere)


def phase(server: Server, wanted: Load) -> tuple[Measured, dict[str, float]]:
    """Run one phase; return its times, and what the server used a request."""
    url = server.paid if wanted.kind == "paid" else server.free
    most = int(MOST_A_SECOND * wanted.seconds)
    if wanted.kind == "paid":
        most //= 3
    before = server.tell("counters")
    measured = asyncio.run(load.run(url, wanted, server.buyers, most))
    after = server.tell("counters")
    count = max(1, len(measured.times_s))
    return measured, {name: (after[name] - before[name]) / count for name in STATED}


def row(label: str, measured: Measured, used: dict[str, float]) -> str:
    """Return one row of the load's table."""
    times = measured.times_s or [float("nan")]
    rate = len(measured.times_s) / measured.seconds
    return (
        f"{label:46}{min(times) * 1e3:8.2f}{percentile(times, 0.5) * 1e3:9.2f}"
        f"{percentile(times, 0.99) * 1e3:9.2f}{rate:9.0f}{used['cpu_s'] * 1e3:9.3f}"
        f"{used['commits']:9.2f}"
    )


HEAD = f"{'':46}{'min ms':>8}{'p50 ms':>9}{'p99 ms':>9}{'rate/s':>9}{'cpu ms':>9}{'commits':>9}"


def ways(wanted: Load) -> list[tuple[str, Load]]:
    """Return a phase unpaid and paid, with its voucher before it and on it."""
    return [
        ("unpaid", replace(wanted, kind="free")),
        ("paid, voucher before", replace(wanted, kind="paid")),
        ("paid, voucher on it", replace(wanted, kind="paid", rides=True)),
    ]


def under_load(server: Server, asked: argparse.Namespace) -> None:
    """Print the load's tables: as fast as answered, then at offered rates."""
    base = Load("paid", 1, 1, asked.seconds, tokens=asked.tokens)
    print(f"\nas fast as answered; {asked.tokens} tokens; the server on one core\n{HEAD}")
    phase(server, replace(base, seconds=0.5))  # warm up
    print(row("1 client, empty handler", *phase(server, replace(base, kind="empty"))))
    shapes = [(count, count) for count in asked.buyers] + [(64, 1)]
    for buyers, channels in shapes:
        named = f"{buyers} buyers, {channels} channels"
        for label, each in ways(replace(base, buyers=buyers, channels=channels)):
            print(row(f"{named}, {label}", *phase(server, each)))
    for label, each in ways(replace(base, buyers=64, channels=64, stream=False)):
        print(row(f"64 buyers, whole answers, {label}", *phase(server, each)))
    print(f"\noffered by 64 buyers on 64 channels\n{HEAD}")
    for rate in asked.offered:
        for label, each in ways(replace(base, buyers=64, channels=64, offered=rate)):
            print(row(f"{rate} a second, {label}", *phase(server, each)))
    server.tell("hang", True)
    hangs = replace(base, buyers=64, channels=64, seconds=max(8.0, asked.seconds))
    print(row("64 buyers, paid, while the RPC hangs", *phase(server, hangs)))
    server.tell("hang", False)


def one_at_a_time(server: Server, asked: argparse.Namespace) -> None:
    """Print what payment adds to one request at a time, the ways in turn, and a token's share."""
    print(f"\none at a time, {asked.rounds} rounds in turn (ms)")
    added: dict[int, list[float]] = {}
    for tokens in (asked.tokens, asked.tokens // 8):
        kinds = ways(Load("paid", 1, 1, 0, tokens=tokens))
        times = asyncio.run(load.in_turn(server, [each for _, each in kinds], asked.rounds))
        for (label, _), found in zip(kinds, times, strict=True):
            print(f"{f'{tokens} tokens, {label}':46}{spread(found)}")
        for (label, _), found in list(zip(kinds, times, strict=True))[1:]:
            more = [paid - free for paid, free in zip(found, times[0], strict=True)]
            print(f"{f'{tokens} tokens, payment adds ({label[6:]})':46}{spread(more)}")
        added[tokens] = [min(found) for found in times]
    print("(min of differences is no floor; the difference of the minima is:)")
    for tokens, (free, before, rides) in added.items():
        print(f"{f'{tokens} tokens, minima differ by':46}{(before - free) * 1e3:8.2f} before,"
              f"{(rides - free) * 1e3:8.2f} on it")  # fmt: skip


def spread(times: Sequence[float]) -> str:
    """Return minimum, p50 and p99 in milliseconds."""
    return "".join(
        f"{value * 1e3:9.2f}"
        for value in (min(times), percentile(times, 0.5), percentile(times, 0.99))
    )


def a_token(server: Server, asked: argparse.Namespace) -> None:
    """Print the CPU time of one streamed token, paid and unpaid."""
    base = Load("paid", 8, 8, asked.seconds, tokens=asked.tokens)
    found: dict[str, list[float]] = {"free": [], "paid": []}
    for _ in range(3):
        for kind, costs in found.items():
            both = [
                phase(server, replace(base, kind=kind, rides=True, tokens=tokens))[1]["cpu_s"]  # type: ignore[arg-type]
                for tokens in (asked.tokens // 8, asked.tokens)
            ]
            costs.append((both[1] - both[0]) / (asked.tokens - asked.tokens // 8))
    free, paid = (statistics.median(found[kind]) * 1e6 for kind in ("free", "paid"))
    print(f"\nCPU a streamed token: unpaid {free:.1f} us, paid {paid:.1f} us, "
          f"payment adds {paid - free:.1f} us")  # fmt: skip


def profile(server: Server, asked: argparse.Namespace) -> None:
    """Print where the server's time goes, by function, under 64 buyers."""
    wanted = Load("paid", 64, 64, asked.seconds, tokens=asked.tokens, rides=asked.rides)
    server.tell("profile")
    measured, _ = phase(server, wanted)
    print(f"\n{len(measured.times_s)} paid requests under the profiler")
    print(server.tell("told", 45))


def memory(server: Server, asked: argparse.Namespace) -> None:
    """Print the server's memory over many requests."""
    wanted = Load("paid", 64, 64, 600, tokens=2, rides=asked.rides)
    done = 0
    while done < asked.memory:
        measured = asyncio.run(load.run(server.paid, wanted, server.buyers, 5_000))
        done += len(measured.times_s)
        print(f"after {done} requests: {server.tell('counters')['rss_mb']:.1f} MB at most")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def single_steps(folder: Path, asked: argparse.Namespace) -> None:
    """Print the single steps, and the floors."""
    times = asyncio.run(steps.over_http(folder, asked.rounds, asked.tokens))
    times |= asyncio.run(steps.ledger(folder, asked.rounds))
    times |= steps.floor(folder, asked.rounds)
    print(f"\nsingle steps, in one process (ms)\n{'':46}{'min':>9}{'p50':>9}{'p99':>9}")
    for label, values in times.items():
        print(f"{label:46}{spread(values)}")
    pairs = zip(times["paid chat"], times["voucher"], times["unpaid chat"], strict=True)
    added = [paid + voucher - nothing for paid, voucher, nothing in pairs]
    print(f"{'payment adds to a request, voucher included':46}{spread(added)}")
    alone, raw = times["ledger commit, alone"], times["floor: raw SQLite commit"]
    print(f"ledger commit against raw SQLite: {min(alone) / min(raw):.2f}x by minima, "
          f"{percentile(alone, 0.5) / percentile(raw, 0.5):.2f}x at p50")  # fmt: skip


def arguments() -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each phase of the load")
    parser.add_argument("--buyers", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--offered", type=int, nargs="*", default=[100, 500, 1000, 2000])
    parser.add_argument("--unpinned", dest="pin", action="store_false", help="on a busy machine")
    parser.add_argument("--profile", action="store_true", help="only print a profile by function")
    parser.add_argument("--rides", action="store_true", help="profile vouchers that ride along")
    parser.add_argument("--memory", type=int, default=0, help="only this many requests, for memory")
    parser.add_argument("--recovery", type=int, default=0, help="only a start with many receipts")
    parser.add_argument("--claims", type=int, default=0, help="only a claim of many channels")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    asked = arguments()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True
    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
          f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, load before "
          f"{os.getloadavg()[0]:.1f}")  # fmt: skip
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="viz-bench-", dir=ROOT) as name:
        folder = Path(name)
        for part in ("steps", "load", "start", "claim"):
            (folder / part).mkdir()
        if asked.recovery or asked.claims:
            asyncio.run(recovery.measure(folder, asked.recovery, asked.claims))
            return
        if not (asked.profile or asked.memory):
            single_steps(folder / "steps", asked)
        with running_server(folder / "load", asked) as server:
            if asked.profile:
                profile(server, asked)
            elif asked.memory:
                memory(server, asked)
            else:
                one_at_a_time(server, asked)
                a_token(server, asked)
                under_load(server, asked)
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
