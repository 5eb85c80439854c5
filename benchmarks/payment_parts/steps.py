"""Single steps, one at a time in this process: chats paid and unpaid, vouchers, commits.

Client and server share one process and one core here, so these times hold the client's work too.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from benchmarks.payment_parts.server import SCRIPT, unpaid
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import Buyer, Node, running_node

from viz.domain.node_channel import NodeChannel, accept_voucher
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.units import BASE_MODEL, AdapterId, Address
from viz.protocol import payment
from viz.protocol.credential import credential_from_header, credential_to_header
from viz.services.serving.paid_stream import ServingPolicy
from viz.store.ledger import SqlStore

GROUP = 32


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
    engine = FakeEngine(context_tokens=2048, script=SCRIPT)
    async with running_node(folder, policy=policy) as node, unpaid(engine) as free:
        buyer = await Buyer(node).ready(amount=10**8)
        body = buyer.chat(model="fake", max_tokens=tokens)
        need = (await buyer.need_of(body)).need
        assert need is not None
        step = need.required_units
        vouchers = [
            credential_to_header(buyer.voucher(BASE_MODEL, step * count, 0))
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
    header = credential_to_header(buyer.voucher(BASE_MODEL, units, 0))
    offer = credential_from_header(header)
    channel: NodeChannel = (await node.parts.vouchers._channels.get(buyer.signer)).channel

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
    threaded: list[float] = []
    grouped: list[float] = []
    for step in range(1, count + 1):
        lines = {AdapterId(1): ChannelLineRecord(0, step, step)}
        started = time.perf_counter()
        with store.answering():
            records[0] = await store.commit("voucher", _with(records[0], lines))
        alone.append(time.perf_counter() - started)
        started = time.perf_counter()
        records[1] = await store.commit("voucher", _with(records[1], lines))
        threaded.append(time.perf_counter() - started)
        started = time.perf_counter()
        records = list(
            await asyncio.gather(*(store.commit("voucher", _with(r, lines)) for r in records))
        )
        grouped.append((time.perf_counter() - started) / GROUP)
    await store.close()
    return {
        "ledger commit, alone": alone,
        "ledger commit, one, by the writer's thread": threaded,
        f"ledger commit, {GROUP} at once, each": grouped,
    }


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
