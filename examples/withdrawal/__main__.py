"""Run the story on the packaged base model, and print it: ``python -m examples.withdrawal``."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import sys
import tempfile
from pathlib import Path

import structlog

from examples.demo.world import DemoError
from examples.withdrawal.timeline import tell
from viz.errors import VizError
from viz.settings.engine_config import EngineConfig

# Enough for an adapter; what it knows is not this story's subject.
TRAINING = {
    "steps": 2,
    "warmup_steps": 0,
    "rows_per_step": 2,
    "evaluate_every": 2,
    "rank": 4,
    "max_row_tokens": 256,
    "probes": 2,
    "replay_share": 0.0,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    # At once: between two lines a training may take minutes.
    say = functools.partial(print, flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="viz-withdrawal-") as folder:
            asyncio.run(tell(Path(folder), EngineConfig(max_streams=2), TRAINING, say))
    except (DemoError, VizError) as error:
        sys.exit(f"the story broke off: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
