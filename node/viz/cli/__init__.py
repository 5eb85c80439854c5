"""Run the command ``viz``: one module for each group of commands, imported when the group is used.

Words, tables, exit codes and the only ``asyncio.run`` are here. Each command calls a service, the
buyer's library, or the operator's interface of a running node, and holds no rule of its own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import Final

# The number of new objects after which the garbage collector runs. A command makes most of its
# objects while it imports, and keeps them until it ends: with Python's 700, a short command spent a
# fifth of its time in the collector. A long-running command sets Python's value again
# (``console.until_signal``).
_COLLECT_AFTER: Final = 100_000


def main() -> None:
    """Run the command line; ``viz --version`` alone imports nothing more."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"viz {version('viz-node')}\n")
        return
    gc.set_threshold(_COLLECT_AFTER)
    signal.signal(signal.SIGTERM, _terminated)
    from viz.cli.main import app
    from viz.private import be_private

    be_private()
    try:
        app()
    except SystemExit as end:
        _leave(end.code)
        raise


def _terminated(number: int, _: FrameType | None) -> None:
    """Let a command clean up as after an error; a second signal ends the process at once.

    A command that serves clients stops in its own order (``console.until_signal``).
    """
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def _leave(code: str | int | None) -> None:
    """End the process at once if torch is loaded; return if it is not.

    By now all is closed and on disk. The interpreter would take torch's modules and libraries apart
    one by one, which takes seconds (most of what stopping a node took) and changes nothing.
    """
    if "torch" not in sys.modules or isinstance(code, str):
        return
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


__all__ = ["main"]
