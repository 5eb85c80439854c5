"""The upstream engine against the same vLLM server called directly.

Both ask one server for the same answers with the same sampling, each request under a salt of its
own, and read them as they stream. The engine pays in steps of 32 tokens, as a paid stream does, and
hands on pieces of text; the direct client reads bytes and counts token ids, nothing more.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
from benchmarks.engine_parts.material import RANK, Material

from viz.domain.ports.engine import GenerationRequest, Sampling
from viz.domain.units import AdapterId
from viz.engine.upstream.engine import UpstreamEngine
from viz.engine.upstream.settings import UpstreamSettings

if TYPE_CHECKING:
    from benchmarks.engine_parts.vllm_process import VllmKind

STREAMS = 32
ADAPTERS = 8
STEP_TOKENS = 32
CONTEXT_TOKENS = 1_024
Measured = tuple[float, float]


async def upstream_part(
    material: Material, rounds: int, tokens: int, kind: VllmKind | None = None
) -> float:
    """Print tokens/s of all streams and the time to a first token, by turns.

    ``kind`` is the server's; vLLM on CPUs in float32 by default. Returns the engine's tokens/s as
    a part of the server's.
    """
    from benchmarks.engine_parts.vllm_process import VllmKind, VllmProcess

    kind = kind or VllmKind()
    server = VllmProcess(
        material.model,
        material.folder / "upstream.log",
        sorted(os.sched_getaffinity(0)),
        context_tokens=CONTEXT_TOKENS,
        streams=STREAMS,
        max_loras=ADAPTERS + 1,
        max_adapters=ADAPTERS + 1,
        max_rank=RANK,
        kind=kind,
    )
    await asyncio.to_thread(server.start)
    try:
        await asyncio.to_thread(server.wait)
        settings = UpstreamSettings(
            urls=(server.url,),
            folder=material.folder / "shared",
            arithmetic=kind.dtype,
            max_streams=STREAMS,
            context_tokens=CONTEXT_TOKENS,
            max_adapters=ADAPTERS + 1,
            max_rank=RANK,
            timeout_s=240.0,
            canary_interval_s=86_400.0,
        )
        engine = await UpstreamEngine.start(material.base, settings)
        try:
            for number in range(1, ADAPTERS + 1):
                await engine.add_adapter(AdapterId(number), material.adapter(number))
            return await _compare(engine, server.url, material, rounds, tokens)
        finally:
            await engine.close()
    finally:
        await asyncio.to_thread(server.kill)


async def _compare(
    engine: UpstreamEngine, url: str, material: Material, rounds: int, tokens: int
) -> float:
    names = [each.name for _, each in sorted(engine._adapters.items())]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        def ours(number: int, count: int) -> Awaitable[float]:
            return _ours(engine, material, number, count)

        def direct(number: int, count: int) -> Awaitable[float]:
            return _direct(http, url, names[number], material, count)

        for ask in (ours, direct):  # adapters loaded, everything warm
            await asyncio.gather(*(ask(number, 4) for number in range(ADAPTERS)))
        found: dict[str, list[Measured]] = {"upstream engine": [], "vLLM directly": []}
        one: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, ask in (("upstream engine", ours), ("vLLM directly", direct)):
                found[name].append(await _together(ask, tokens))
                one[name] += [await ask(0, 1) for _ in range(5)]
    print(f"\n{STREAMS} streams, {ADAPTERS} adapters, {tokens} tokens each: median (of {rounds})")
    for name, rows in found.items():
        rates = [rate for rate, _ in rows]
        firsts = [first for _, first in rows]
        print(
            f"  {name:18s} {statistics.median(rates):7.1f} tokens/s ({min(rates):.1f} to "
            f"{max(rates):.1f})   first token {statistics.median(firsts) * 1e3:7.0f} ms"
        )
    mine, theirs = found["upstream engine"], found["vLLM directly"]
    ratio = statistics.median(a / b for (a, _), (b, _) in zip(mine, theirs, strict=True))
    word = "met" if ratio >= 0.95 else "missed"
    print(f"  tokens/s against vLLM directly: {ratio:.3f}   goal 0.95: {word}")
    alone = {name: statistics.median(values) * 1e3 for name, values in one.items()}
    more = alone["upstream engine"] - alone["vLLM directly"]
    print(
        f"  first token of one request alone: {alone['upstream engine']:.1f} against "
        f"{alone['vLLM directly']:.1f} ms, {more:+.1f} ms   goal +5: "
        f"{'met' if more <= 5 else 'missed'}"
    )
    return ratio


async def _together(ask: Callable[[int, int], Awaitable[float]], tokens: int) -> Measured:
    """Return tokens/s of all streams, and the mean seconds to their first tokens."""
    began = time.perf_counter()
    firsts = await asyncio.gather(*(ask(n % ADAPTERS, tokens) for n in range(STREAMS)))
    return STREAMS * tokens / (time.perf_counter() - began), statistics.mean(firsts)


async def _ours(engine: UpstreamEngine, material: Material, number: int, tokens: int) -> float:
    """Read one answer through the engine, paid step by step; return seconds to its first token."""
    prompt = (*material.prompt,)  # an object of its own, and so a salt of its own
    request = GenerationRequest("b", prompt, AdapterId(number + 1), Sampling(max_tokens=tokens))
    began, first, made, allowed = time.perf_counter(), 0.0, 0, STEP_TOKENS
    stream = await engine.generate(request)
    stream.allow(allowed)
    async for piece in stream:
        first = first or time.perf_counter() - began
        made += len(piece.token_ids)
        if made * 2 >= 2 * allowed - STEP_TOKENS:
            allowed += STEP_TOKENS
            stream.allow(allowed)
    assert made == tokens
    return first


async def _direct(
    http: aiohttp.ClientSession, url: str, name: str, material: Material, tokens: int
) -> float:
    """Read one answer from the server; return seconds to its first token."""
    body: dict[str, Any] = {
        "model": name,
        "prompt": list(material.prompt),
        "max_tokens": tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "cache_salt": secrets.token_urlsafe(32),
    }
    began, first, made = time.perf_counter(), 0.0, 0
    async with http.post(f"{url}/v1/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - began
                made += sum(len(c["token_ids"]) for c in json.loads(line[6:])["choices"])
    assert made == tokens
    return first
