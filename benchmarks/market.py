"""What the market over many nodes costs one node: CPU of a round, and time of a page.

    python benchmarks/market.py [--nodes 50] [--adapters 1000] [--listings 1000]

The other nodes are simulated in a process of their own and asked over real HTTP; the node that asks
is whole, with its ledger on disk, in this process, whose CPU is counted. The chain is in memory: a
real one adds the decoding of its answers, about a millisecond for each reading that the table
counts. A refresh is held against the time between two rounds, a page against a floor of the same
run, the node's /healthz.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "node")]

from tests.fakes.chain import NOW_S, address_of  # noqa: E402
from tests.fakes.remote_nodes import base_offer, info, offer, register  # noqa: E402
from tests.integration.api.harness import ADAPTER, NODE_KEY, running_node  # noqa: E402
from tests.unit.services.market.test_listings import LicensedChain, signed  # noqa: E402

from viz.api.negotiation import tagged  # noqa: E402
from viz.domain.ports.chain import NodeEntry  # noqa: E402
from viz.domain.units import ContentId  # noqa: E402
from viz.protocol.listing import (  # noqa: E402
    LISTINGS_PAGE,
    LISTINGS_PATH,
    SignedListing,
    listings_to_json,
)
from viz.protocol.market import MARKET_PATH  # noqa: E402
from viz.protocol.payment import NODE_PATH  # noqa: E402
from viz.services.market.discovery import INTERVAL_S  # noqa: E402

FIRST_ID: Final = 1_000  # beyond the node's own adapter
SERVED_BY: Final = 3
TRAINER: Final = address_of(0x71)
PAGES: Final = 40
MOST_PAGE_MS: Final = 50
MOST_CPU_PERCENT: Final = 5


def ids_of(node: int, nodes: int, adapters: int) -> list[int]:
    """Return the adapters that one simulated node serves: each is served by three."""
    return [
        FIRST_ID + each
        for each in range(adapters)
        if any((each + turn) % nodes == node for turn in range(SERVED_BY))
    ]


def simulate(pipe: Connection, nodes: int, adapters: int, listings: int) -> None:
    """Serve all other nodes, each on a port of its own, until this process is ended."""
    kept = [signed(contentId=FIRST_ID + number, issuedAt=NOW_S) for number in range(listings)]
    asyncio.run(_serve(pipe, nodes, adapters, kept))


async def _serve(
    pipe: Connection, nodes: int, adapters: int, kept: Sequence[SignedListing]
) -> None:
    ports: list[int] = []
    for number in range(nodes):
        offers = [offer(each, 1 + (each + number) % 9) for each in ids_of(number, nodes, adapters)]
        said = json.dumps(info(address_of(0x10000 + number), [base_offer(), *offers]).to_json())

        async def describe(_: web.Request, said: str = said) -> web.Response:
            return web.Response(text=said, content_type="application/json")

        async def page(request: web.Request) -> web.Response:
            after = int(request.query["after"]) - FIRST_ID + 1
            begin = max(0, after)
            found = tuple(kept[begin : begin + LISTINGS_PAGE])
            more = found[-1].listing.content_id if len(found) == LISTINGS_PAGE else None
            body = json.dumps(listings_to_json(found, more)).encode()
            return tagged(request, body, "application/json")

        app = web.Application()
        app.add_routes([web.get(NODE_PATH, describe), web.get(LISTINGS_PATH, page)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
    pipe.send(ports)
    await asyncio.Event().wait()


def world(ports: Sequence[int], adapters: int, listings: int) -> LicensedChain:
    """Return the chain: the directory, the adapters, and the works that are listed."""
    chain = LicensedChain(NODE_KEY)
    for number, port in enumerate(ports):
        node = address_of(0x10000 + number)
        chain.directory[node] = NodeEntry(node, NOW_S, f"http://127.0.0.1:{port}", "")
    for number in range(adapters):
        register(chain, FIRST_ID + number, TRAINER)
    for number in range(max(adapters, listings)):
        chain.put_work(ContentId(FIRST_ID + number))
    return chain


async def measure(ports: Sequence[int], asked: argparse.Namespace) -> bool:
    """Print the tables; return whether the bounds hold."""
    chain = world(ports, asked.adapters, asked.listings)
    with tempfile.TemporaryDirectory() as folder:
        async with running_node(Path(folder), chain=chain) as node:
            state = chain.adapter_states[ADAPTER]
            chain.adapter_states[ADAPTER] = replace(state, base_model=node.engine.model.digest)
            discovery = node.parts.discovery
            rounds: list[tuple[str, float, float, int]] = []
            for name, later_s in (
                ("first round", 0),
                ("second round (the rest of the listings)", 300),
                ("third", 300),
                ("fourth", 300),
                ("fifth", 300),
                ("refresh, nothing new", 300),
                ("refresh, permissions read again", 900),
                ("refresh, everything read again", 3_600),
            ):
                chain.clock.now += later_s
                reads, cpu_s, wall_s = chain.reads, time.process_time(), time.perf_counter()
                await discovery.step()
                took_s = time.perf_counter() - wall_s
                rounds.append((name, time.process_time() - cpu_s, took_s, chain.reads - reads))
            rows = await pages(node.http, node.url)
    models = len(discovery.index.models)
    print(f"\n{asked.nodes} nodes, {models} models, {asked.listings} listings\n")
    print(f"{'round':<42}{'CPU s':>8}{'wall s':>8}{'readings':>10}{'% of a core':>13}")
    for name, cpu_s, took_s, read in rounds:
        print(f"{name:<42}{cpu_s:>8.2f}{took_s:>8.2f}{read:>10}{100 * cpu_s / INTERVAL_S:>13.2f}")
    print(f"\n{'answer':<42}{'p50 ms':>8}{'p95 ms':>8}{'bytes':>10}{'floors':>9}")
    floor = rows[0][1]
    for name, half, most, size in rows:
        print(f"{name:<42}{half:>8.1f}{most:>8.1f}{size:>10}{half / floor:>9.1f}")
    percent = 100 * max(cpu_s for _, cpu_s, _, _ in rounds[-3:]) / INTERVAL_S
    first = rows[1][1]
    print(f"\nfirst page {first:.1f} ms (at most {MOST_PAGE_MS}); ", end="")
    print(f"refresh {percent:.2f} % of a core (at most {MOST_CPU_PERCENT})")
    return first <= MOST_PAGE_MS and percent <= MOST_CPU_PERCENT


async def pages(http: aiohttp.ClientSession, url: str) -> list[tuple[str, float, float, int]]:
    """Return what answers take: name, median and 95th percentile in ms, size in bytes."""
    found: list[tuple[str, float, float, int]] = []
    tag: dict[str, str] = {}
    for name, path in (
        ("floor: /healthz", "/healthz"),
        ("first page", MARKET_PATH),
        ("a page with the tag of before (304)", MARKET_PATH),
        ("words", f"{MARKET_PATH}?q=tides+1234"),
        ("at most a price", f"{MARKET_PATH}?maxPromptPrice=2"),
        ("one adapter", f"{MARKET_PATH}?adapter={FIRST_ID + 7}"),
    ):
        times: list[float] = []
        size = 0
        for _ in range(PAGES):
            began_s = time.perf_counter()
            headers = tag if "304" in name else {}
            async with http.get(url + path, headers=headers) as response:
                size = len(await response.read())
                if name == "first page":
                    tag = {"If-None-Match": response.headers["ETag"]}
            times.append((time.perf_counter() - began_s) * 1_000)
        times.sort()
        found.append((name, statistics.median(times), times[int(0.95 * len(times))], size))
    return found


def main() -> None:
    """Run the benchmark; exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("nodes", 50), ("adapters", 1_000), ("listings", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    structlog.configure(logger_factory=lambda *_: structlog.ReturnLogger())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    here, there = multiprocessing.Pipe()
    given: tuple[Any, ...] = (there, asked.nodes, asked.adapters, asked.listings)
    others = multiprocessing.get_context("spawn").Process(target=simulate, args=given, daemon=True)
    others.start()
    try:
        holds = asyncio.run(measure(here.recv(), asked))
    finally:
        others.terminate()
        others.join()
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
