"""This engine over its own Protocol: decoding rates, first tokens, loads and a long register."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.engine_parts.material import ADAPTERS, RANK, Material, write_random


class Contender:
    """One running engine; adapter n is what ``material.adapter`` wrote, by n modulo 32."""

    def __init__(self, engine: Any, material: Material) -> None:
        self.engine, self.material = engine, material

    @classmethod
    async def start(cls, material: Material, threads: int, compute: str) -> Contender:
        from viz.engine.embedded.engine import EmbeddedEngine
        from viz.engine.embedded.settings import EngineSettings

        settings = EngineSettings(
            max_streams=32,
            context_tokens=1024,
            threads=threads,
            compute=compute,  # type: ignore[arg-type]
            guesses=False,  # all contenders compute every token
        )
        engine = await EmbeddedEngine.start(material.base, settings)
        own = cls(engine, material)
        await own.register(1, ADAPTERS)
        return own

    async def register(self, first: int, last: int) -> None:
        """Add adapters ``first`` to ``last``."""
        from viz.domain.units import AdapterId

        for number in range(first, last + 1):
            path = self.material.adapter(1 + (number - 1) % ADAPTERS)
            await self.engine.add_adapter(AdapterId(number), path)

    async def forget(self, first: int, last: int) -> None:
        """Remove adapters ``first`` to ``last``."""
        from viz.domain.units import AdapterId

        for number in range(first, last + 1):
            await self.engine.remove_adapter(AdapterId(number))

    async def stream(self, adapter: int, tokens: int, prompt: tuple[int, ...] = ()) -> list[float]:
        """Return the time of asking, then the arrival time of every token."""
        from viz.domain.ports.engine import GenerationRequest, Sampling
        from viz.domain.units import AdapterId

        times = [time.perf_counter()]
        request = GenerationRequest(
            f"bench-{adapter}",
            prompt or self.material.prompt,
            AdapterId(adapter),
            Sampling(max_tokens=tokens),
        )
        async for piece in await self.engine.generate(request):
            times += [time.perf_counter()] * len(piece.token_ids)
        return times

    async def decode_rate(self, adapters: list[int], tokens: int) -> float:
        """Return aggregate tokens/s while one stream an entry of ``adapters`` (0: none) decode."""
        runs = await asyncio.gather(*(self.stream(adapter, tokens) for adapter in adapters))
        began, ended = max(times[1] for times in runs), min(times[-1] for times in runs)
        made = sum(1 for times in runs for at in times[1:] if began < at <= ended)
        return made / (ended - began)

    async def prefill_rate(self) -> float:
        """Return prompt tokens/s of one long prompt to its first token."""
        prompt = self.material.long_prompt
        times = await self.stream(0, 1, prompt)
        return len(prompt) / (times[1] - times[0])

    async def first_tokens(self, probes: int) -> list[float]:
        """Return the seconds to the first token of ``probes`` requests, one after another."""
        found = []
        for number in range(probes):
            times = await self.stream(1 + number % ADAPTERS, 1)
            found.append(times[1] - times[0])
        return found

    async def keep_decoding(self, streams: int) -> list[asyncio.Task[None]]:
        """Start ``streams`` that decode without end; return once all do."""
        begun = asyncio.Semaphore(0)

        async def forever(adapter: int) -> None:
            while True:
                await self.stream(adapter, 2)
                begun.release()
                await self.stream(adapter, 900)

        tasks = [asyncio.create_task(forever(1 + place)) for place in range(streams)]
        for _ in tasks:
            await begun.acquire()
        return tasks


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of them do not pass."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))]


async def first_token_part(own: Contender, probes: int) -> None:
    """Print time to first token (64-token prompt), idle and with 16 streams decoding."""
    idle = await own.first_tokens(probes)
    tasks = await own.keep_decoding(16)
    busy = await own.first_tokens(probes)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(f"\nfirst token of a 64-token prompt, ms, {probes} probes each:")
    for name, values in (("idle", idle), ("16 streams decoding", busy)):
        low, high = statistics.median(values), percentile(values, 0.99)
        print(f"  {name}: p50 {low * 1e3:.0f}, p99 {high * 1e3:.0f}")
    ratio = percentile(busy, 0.99) / percentile(idle, 0.99)
    print(f"  p99 against idle's p99: {ratio:.1f}x (goal: at most 3)", flush=True)


async def registered_part(own: Contender, registered: int, rounds: int) -> None:
    """Print 8 streams with ``registered`` adapters registered against 32, by turns.

    Those in memory after a short turn that is not counted; those of any with their loads.
    """
    chance = random.Random(1)
    rates: dict[str, list[float]] = {"few": [], "resident": [], "any": []}
    for _ in range(rounds):
        await own.decode_rate(list(range(1, 9)), 8)
        rates["few"].append(await own.decode_rate(list(range(1, 9)), 48))
        await own.register(ADAPTERS + 1, registered)
        newest = [registered - place for place in range(8)]
        anyone = [chance.randint(1, registered) for _ in range(8)]
        await own.decode_rate(newest, 8)
        rates["resident"].append(await own.decode_rate(newest, 48))
        rates["any"].append(await own.decode_rate(anyone, 48))
        stats = own.engine.stats()
        await own.forget(ADAPTERS + 1, registered)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    # By rounds, since a shared machine drifts from one to the next.
    ratio = {
        name: statistics.median(a / b for a, b in zip(values, rates["few"], strict=True))
        for name, values in rates.items()
    }
    print(
        f"\n8 streams, tokens/s: {medians['few']:.1f} with {ADAPTERS} registered; with "
        f"{registered} registered and {stats['resident_adapters']:.0f} resident "
        f"{medians['resident']:.1f} ({ratio['resident']:.3f}; goal: at least 0.95), "
        f"{medians['any']:.1f} each from any of them ({ratio['any']:.3f}; "
        f"{stats['adapter_loads']:.0f} loads, "
        f"{stats['adapter_evictions']:.0f} evictions)",
        flush=True,
    )


def load_part(own: Contender, rounds: int) -> None:
    """Print how long an adapter takes into memory: read, checked, laid out; and when resident."""
    import torch

    from viz.domain.units import AdapterId
    from viz.engine.embedded.adapter_pool import AdapterPool

    material = own.material
    compiled = "compute_native_float32" in own.engine.stats()
    dtype = torch.float16 if compiled else torch.float32
    for rank in (RANK, 2 * RANK):
        store = AdapterPool(material.base, dtype, max_resident=64, max_bytes=1 << 30)
        path = material.folder / f"load-{rank}.safetensors"
        write_random(path, material.base, rank=rank, seed=rank)
        places = ("page cache", "disk", "disk, its bytes alone", "resident")
        taken: dict[str, list[float]] = {place: [] for place in places}
        for turn in range(rounds):
            for place in ("page cache", "disk"):
                _forget(path) if place == "disk" else path.read_bytes()
                began = time.perf_counter()
                store.register(AdapterId(turn + 1), path)
                taken[place].append(time.perf_counter() - began)
            _forget(path)
            began = time.perf_counter()
            path.read_bytes()
            taken["disk, its bytes alone"].append(time.perf_counter() - began)
            began = time.perf_counter()
            held = store.acquire(AdapterId(turn + 1))
            taken["resident"].append(time.perf_counter() - began)
            assert held is not None
            store.release(held)
        store.close()
        size = path.stat().st_size / 1e6
        print(
            f"\nadapter of rank {rank}, {size:.1f} MB: opened, checked whole and laid out, ms "
            f"({rounds} times)"
        )
        for place, values in taken.items():
            low, high = statistics.median(values) * 1e3, max(values) * 1e3
            print(f"  from {place}: median {low:.3g}, worst {high:.3g}")
    print("  goals: 20 from disk, 1 resident", flush=True)


def _forget(path: Path) -> None:
    """Drop a file from the page cache, so that it is read from disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
