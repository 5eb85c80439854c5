"""Run the demo: `./scripts/demo [--kubo] [--folder DIR]`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from openai import OpenAIError
from rich.console import Console

from examples.demo import money, stages
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


def main() -> int:
    """Run every stage; return 0 when all held."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Viz, end to end.")
    parser.add_argument("--kubo", action="store_true", help="store blobs in a Kubo daemon")
    parser.add_argument("--folder", type=Path, help="keep everything here instead of a temporary")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="viz-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder.resolve(), console, kubo=arguments.kubo)
    story = stages.Story(world)
    started = time.monotonic()
    took: list[tuple[str, float]] = []
    try:
        for number, (title, stage) in enumerate(STAGES, 1):
            console.print(f"\n[bold]{number}. {title}[/bold]")
            began = time.monotonic()
            stage(story)
            took.append((title, time.monotonic() - began))
    except (DemoError, VizError, OpenAIError, subprocess.SubprocessError, OSError) as error:
        console.print(f"\n[red]The demo failed:[/red] {error}\nIts files are in {folder}")
        return 1
    finally:
        world.stop()
    console.print("\n[bold]Every stage held.[/bold] Seconds:")
    for title, seconds in took:
        console.print(f"  {seconds:6.1f}  {title}")
    console.print(f"  {time.monotonic() - started:6.1f}  in all, after set-up")
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
