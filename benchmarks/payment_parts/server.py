"""The server of the load: a paid node, the same chat unpaid, and an empty handler, on one core.

Runs in a process of its own. The paid node is ``tests.integration.api.harness.running_node`` with
its real ledger; its engine makes tokens that cost next to nothing. Its clock runs, so that readings
of the chain age as they do in a real node. Commands arrive over a pipe.
"""

from __future__ import annotations

import asyncio
import cProfile
import io
import json
import os
import pstats
import resource
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.chain import FakeChain, FakeClock
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import NODE_KEY, Buyer, Node, running_node

from viz.api.context import ApiLimits
from viz.api.openai.answer import Answer, Choice, usage
from viz.api.openai.request import read_chat
from viz.cli.console import serving_loop
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.engine import GenerationRequest
from viz.domain.units import BASE_MODEL, Address
from viz.protocol import payment
from viz.protocol.wire import parse_json
from viz.services.serving.paid_stream import ServingPolicy

SCRIPT = b"the tide is high at noon and low at six. "
EMPTY_PATH = "/empty"
DEPOSIT = 10**12


@dataclass(frozen=True)
class Options:
    """What the server serves: its folder, its core, buyers with open channels, tokens a step."""

    folder: Path
    core: int | None
    buyers: int
    tokens: int


@dataclass
class RunningClock(FakeClock):
    """A fake clock that runs."""

    begun: float = field(default_factory=time.monotonic)

    def now_s(self) -> int:
        return self.now + int(time.monotonic() - self.begun)


@dataclass
class HangingChain(FakeChain):
    """A chain whose endpoint can be told to take every question and to answer none."""

    hangs: bool = False

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().channel(signer, node, confirmed=confirmed)


def key_of(index: int) -> bytes:
    """Return the session key of a buyer."""
    return (0x1000 + index).to_bytes(32, "big")


@asynccontextmanager
async def unpaid(engine: FakeEngine) -> AsyncIterator[str]:
    """Serve the same chat, in the same shapes, for nothing."""

    async def chat(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        wanted = read_chat(parse_json(raw, max_bytes=len(raw)), max_choices=1)
        assert not isinstance(wanted.prompt, str)
        prompt = engine.render(wanted.prompt)
        shape, choice = Answer("chatcmpl-0", 0, "fake", True, False), Choice()
        generation = await engine.generate(
            GenerationRequest("0", prompt, BASE_MODEL, wanted.sampling)
        )
        if not wanted.stream:
            async for piece in generation:
                choice.add(piece)
            whole = shape.whole([choice], usage(len(prompt), len(choice.text)))
            return web.json_response(whole)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event(shape.opening(0)))
        async for piece in generation:
            await response.write(_event(shape.piece(0, piece, ())))
            choice.add(piece)
        await response.write(_event(shape.closing(0, choice.finish or "length")))
        await response.write(_event(shape.usage(usage(len(prompt), len(choice.text)))))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def empty(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"{}")

    app = web.Application()
    app.router.add_post(payment.CHAT_PATH, chat)
    app.router.add_post(EMPTY_PATH, empty)
    server = TestServer(app)
    await server.start_server()
    yield str(server.make_url("")).rstrip("/")
    await server.close()


def _event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def serve(pipe: Connection, options: Options) -> None:
    """Run the server until it is told to stop; answer commands over ``pipe``."""
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True
    )
    with asyncio.Runner(loop_factory=serving_loop()) as runner:
        runner.run(_serve(pipe, options))


async def _serve(pipe: Connection, options: Options) -> None:
    # No limit of the benchmark's own may show: not the engine's, nor that of strangers' questions.
    engine = FakeEngine(max_open=4096, context_tokens=2048, script=SCRIPT)
    chain = HangingChain(NODE_KEY, RunningClock())
    limits = ApiLimits(questions_per_minute=10**9)
    policy = ServingPolicy(step_tokens=options.tokens, max_prepay_units=10**9)
    async with (
        running_node(
            options.folder, policy=policy, engine=engine, chain=chain, limits=limits
        ) as node,
        unpaid(engine) as free,
    ):
        buyers = [Buyer(node, key=key_of(index)) for index in range(options.buyers)]
        for buyer in buyers:
            # Opened on the chain, as by its wallet: a node relays few deposits an hour.
            opened = ChannelState(buyer.signer, chain.address, buyer.payer, DEPOSIT, 0, 0)
            chain.channels[buyer.signer, chain.address] = opened
            await buyer.login()
        need = await _need(buyers, options.tokens)
        pipe.send({"paid": node.url, "free": free, "need": need, "tokens": _tokens(buyers)})
        await _obey(pipe, node, chain)


async def _need(buyers: Sequence[Buyer], tokens: int) -> int:
    if not buyers:
        return 0
    need = (await buyers[0].need_of(buyers[0].chat(max_tokens=tokens))).need
    assert need is not None
    return need.required_units


def _tokens(buyers: Sequence[Buyer]) -> list[str]:
    return [buyer.token for buyer in buyers]


async def _obey(pipe: Connection, node: Node, chain: HangingChain) -> None:
    profile = cProfile.Profile()
    orders: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), lambda: orders.put_nowait(pipe.recv()))
    while True:
        order, value = await orders.get()
        said: Any = None
        if order == "stop":
            loop.remove_reader(pipe.fileno())
            return
        if order == "counters":
            said = _counters(node)
        elif order == "hang":
            chain.hangs = bool(value)
        elif order == "profile":
            profile.enable()
        elif order == "told":
            profile.disable()
            said = _told(profile, rows=int(value))
        pipe.send(said)


def _counters(node: Node) -> dict[str, float]:
    writer = node.store._db.writer
    return {
        "cpu_s": time.process_time(),
        "commits": writer.commits,
        "writes": writer.writes,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _told(profile: cProfile.Profile, rows: int) -> str:
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text)
    stats.strip_dirs().sort_stats("tottime").print_stats(rows)
    stats.sort_stats("cumulative").print_stats(rows)
    return text.getvalue()
