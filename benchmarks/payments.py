"""What payment adds to a request: the same application with and without it, interleaved.

    python benchmarks/payments.py [--rounds 200] [--tokens 16]

Both sides serve the same chat over HTTP on this machine from the tests' invented engine, whose
tokens cost nothing, so that what is left is the price of paying. The paid side has its real ledger
on this disk. The floor is what the disk alone takes for one durable commit, measured in the same
run. Vouchers are signed before the clock starts: a buyer signs ahead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "node")]

from tests.fakes.engine import FakeEngine  # noqa: E402
from tests.integration.api.harness import Buyer, Node, running_node  # noqa: E402

from viz.api.openai_answer import Answer, Choice, usage  # noqa: E402
from viz.api.openai_request import read_chat  # noqa: E402
from viz.domain.node_channel import NodeChannel, accept_voucher  # noqa: E402
from viz.domain.ports.engine import GenerationRequest  # noqa: E402
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord  # noqa: E402
from viz.domain.units import BASE_MODEL, AdapterId, Address  # noqa: E402
from viz.protocol import payment  # noqa: E402
from viz.protocol.credential import credential_from_header, credential_to_header  # noqa: E402
from viz.protocol.wire import parse_json  # noqa: E402
from viz.services.serving.paid_stream import ServingPolicy  # noqa: E402
from viz.store.ledger import SqlStore  # noqa: E402

GROUP = 32


@asynccontextmanager
async def unpaid(engine: FakeEngine) -> AsyncIterator[str]:
    """Serve the same chat, in the same shapes, for nothing."""

    async def chat(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        wanted = read_chat(parse_json(raw, max_bytes=len(raw)), max_choices=1)
        assert not isinstance(wanted.prompt, str)
        prompt = engine.render(wanted.prompt)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        shape, choice = Answer("chatcmpl-0", 0, "fake", True, False), Choice()
        generation = await engine.generate(
            GenerationRequest("0", prompt, BASE_MODEL, wanted.sampling)
        )
        await response.write(_event(shape.opening(0)))
        async for piece in generation:
            await response.write(_event(shape.piece(0, piece, ())))
            choice.add(piece)
        await response.write(_event(shape.closing(0, choice.finish or "length")))
        await response.write(_event(shape.usage(usage(len(prompt), len(choice.text)))))
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post(payment.CHAT_PATH, chat)
    server = TestServer(app)
    await server.start_server()
    yield str(server.make_url("")).rstrip("/")
    await server.close()


def _event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


async def timed(http: aiohttp.ClientSession, url: str, **sent: Any) -> float:
    """Return how many seconds a request takes to its last byte."""
    started = time.perf_counter()
    async with http.post(url, **sent) as response:
        await response.read()
        assert response.status == 200, await response.text()
    return time.perf_counter() - started


async def over_http(folder: Path, rounds: int, tokens: int) -> dict[str, list[float]]:
    """Measure unpaid chats, paid chats and vouchers in turn."""
    times: dict[str, list[float]] = {"unpaid chat": [], "paid chat": [], "voucher": []}
    policy = ServingPolicy(step_tokens=tokens)
    engine = FakeEngine(context_tokens=2048)
    async with running_node(folder, policy=policy) as node, unpaid(engine) as free:
        buyer = await Buyer(node).ready(amount=10**8)
        body = buyer.chat(model="fake", max_tokens=tokens)
        need = (await buyer.need_of(body)).need
        assert need is not None
        step = need.required_units
        vouchers = [
            credential_to_header(buyer.offer(BASE_MODEL, step * count, 0))
            for count in range(1, rounds + 11)
        ]
        for header in vouchers:
            voucher = await timed(
                node.http, node.url + payment.VOUCHERS_PATH, headers={"Authorization": header}
            )
            paid = await timed(
                node.http, node.url + payment.CHAT_PATH, json=body, headers=buyer.bearer()
            )
            nothing = await timed(node.http, free + payment.CHAT_PATH, json=body)
            for name, value in zip(times, (nothing, paid, voucher), strict=True):
                times[name].append(value)
        await checks(node, buyer, step * (rounds + 11), times)
    return {name: values[10:] for name, values in times.items()}


async def checks(node: Node, buyer: Buyer, units: int, times: dict[str, list[float]]) -> None:
    """Measure the parts of a voucher's way: reading it, judging it, writing it."""
    header = credential_to_header(buyer.offer(BASE_MODEL, units, 0))
    offer = credential_from_header(header)
    channel: NodeChannel = (await node.parts.sessions._channels.get(buyer.signer)).channel

    def judge() -> None:
        accept_voucher(
            channel,
            buyer.domain,
            offer,  # type: ignore[arg-type]
            known_adapters={BASE_MODEL},
            now_s=0,
        )

    times["read a voucher"] = repeated(lambda: credential_from_header(header))
    times["judge a voucher"] = repeated(judge)


def repeated(work: Callable[[], object], count: int = 500) -> list[float]:
    """Return the seconds of each of ``count`` calls."""
    found: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


async def ledger(folder: Path, count: int) -> dict[str, list[float]]:
    """Measure commits of the ledger, alone and in groups; seconds a commit of one channel."""
    store = await SqlStore.open(folder / "bench.db", {"node": "bench"})
    records = [
        await store.commit("voucher", ChannelRecord(Address(f"0x{n:040x}"))) for n in range(GROUP)
    ]
    alone: list[float] = []
    grouped: list[float] = []
    for step in range(1, count + 1):
        lines = {AdapterId(1): ChannelLineRecord(0, step, step)}
        started = time.perf_counter()
        records[0] = await store.commit("voucher", _with(records[0], lines))
        alone.append(time.perf_counter() - started)
        started = time.perf_counter()
        records = list(
            await asyncio.gather(*(store.commit("voucher", _with(r, lines)) for r in records))
        )
        grouped.append((time.perf_counter() - started) / GROUP)
    await store.close()
    return {"ledger commit, alone": alone, f"ledger commit, {GROUP} at once, each": grouped}


def _with(record: ChannelRecord, lines: dict[AdapterId, ChannelLineRecord]) -> ChannelRecord:
    return replace(record, lines=lines)


def floor(folder: Path, count: int) -> dict[str, list[float]]:
    """Measure what the disk takes: an appended page flushed, and one raw SQLite commit."""
    with (folder / "floor.bin").open("wb") as file:

        def flush() -> None:
            file.write(b"\0" * 4096)
            file.flush()
            os.fdatasync(file.fileno())

        flushes = repeated(flush, count)
    raw = sqlite3.connect(folder / "floor.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    commits = repeated(lambda: raw.execute("INSERT INTO t (v) VALUES (?)", (b"x" * 200,)), count)
    raw.close()
    return {"floor: fdatasync of a page": flushes, "floor: raw SQLite commit": commits}


def percentile(values: list[float], share: float) -> float:
    """Return the value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=16)
    asked = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True
    )
    with tempfile.TemporaryDirectory(prefix="viz-bench-", dir=ROOT) as name:
        folder = Path(name)
        times = asyncio.run(over_http(folder, asked.rounds, asked.tokens))
        times |= asyncio.run(ledger(folder, asked.rounds))
        times |= floor(folder, asked.rounds)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
          f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}; {asked.rounds} rounds of "
          f"{asked.tokens} tokens, one request at a time")  # fmt: skip
    print(f"{'milliseconds':44}{'p50':>10}{'p99':>10}")
    for label, values in times.items():
        half, tail = percentile(values, 0.5) * 1e3, percentile(values, 0.99) * 1e3
        print(f"{label:44}{half:10.3f}{tail:10.3f}")
    pairs = zip(times["paid chat"], times["voucher"], times["unpaid chat"], strict=True)
    added = [paid + voucher - nothing for paid, voucher, nothing in pairs]
    half, tail = statistics.median(added) * 1e3, percentile(added, 0.99) * 1e3
    print(f"{'payment adds to a request, voucher included':44}{half:10.3f}{tail:10.3f}")
    ratio = percentile(times["paid chat"], 0.5) / percentile(times["unpaid chat"], 0.5)
    print(f"{'paid chat against the same chat unpaid, p50':44}{ratio:9.2f}x")


if __name__ == "__main__":
    main()
