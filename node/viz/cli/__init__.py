"""The command ``viz``: one module a group of commands, imported when its group is used.

Owns words, tables, exit codes and the only ``asyncio.run``. Knows no rule of its own: each command
calls a service, the buyer's library, or the running node's operator interface.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ``viz --version`` alone imports nothing for it."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"viz {version('viz-node')}\n")
        return
    from viz.cli.main import app

    app()


__all__ = ["main"]
