"""Run the demo: `./scripts/demo [--kubo | --network | --upstream] [--folder DIR]`."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks.engine_parts.vllm_process import VllmNotStarted
from openai import OpenAIError
from rich.console import Console

from examples.demo import money, network, stages, upstream
from examples.demo.world import DemoError, World
from viz.errors import VizError

STAGES: tuple[tuple[str, Callable[[stages.Story], None]], ...] = (
    ("A local chain with the contracts", stages.chain),
    ("A node", stages.node),
    ("Three creators register their works", stages.creators),
    ("Licenses, two QLoRA adapters, and a refusal", stages.training),
    ("The store's names", stages.cids),
    ("A buyer without gas asks, and pays while it streams", stages.asking),
    ("One claim pays everybody", money.settlement),
    ("The buyer leaves", money.closing),
)
FAILURES: tuple[type[Exception], ...] = (
    DemoError,
    VizError,
    VllmNotStarted,
    OpenAIError,
    subprocess.SubprocessError,
    OSError,
)


def main() -> int:
    """Run every stage; return 0 when all held."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Viz, end to end.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--kubo", action="store_true", help="store blobs in a Kubo daemon")
    kind.add_argument("--network", action="store_true", help="three nodes, and one of them dies")
    kind.add_argument("--upstream", action="store_true", help="one question to two engines")
    parser.add_argument("--folder", type=Path, help="keep everything here instead of a temporary")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="viz-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _end)
    try:
        if arguments.network:
            network.tell(folder.resolve(), console)
        elif arguments.upstream:
            upstream.tell(folder.resolve(), console)
        else:
            tell(folder.resolve(), console, kubo=arguments.kubo)
    except FAILURES as error:
        console.print(f"\n[red]The demo failed:[/red] {error}\nIts files are in {folder}")
        return 1
    console.print(f"Everything held, {time.monotonic() - started:.0f} s after set-up.")
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end(number: int, _: FrameType | None) -> None:
    """End as after an error, so that every process is stopped in its turn."""
    # A second signal ends this process at once, and the kernel tells the others.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(128 + number)


def tell(folder: Path, console: Console, *, kubo: bool) -> None:
    """Run every stage of the market on one node; raise the error of the one that does not hold."""
    world = World(folder, console, kubo=kubo)
    story = stages.Story(world)
    took: list[tuple[str, float]] = []
    try:
        for number, (title, stage) in enumerate(STAGES, 1):
            console.print(f"\n[bold]{number}. {title}[/bold]")
            began = time.monotonic()
            stage(story)
            took.append((title, time.monotonic() - began))
    finally:
        world.stop()
    console.print("\nSeconds of each stage:")
    for title, seconds in took:
        console.print(f"  {seconds:6.1f}  {title}")


if __name__ == "__main__":
    sys.exit(main())
