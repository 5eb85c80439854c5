"""Run the command ``viz``: one module for each group of commands, imported when the group is used.

Words, tables, exit codes and the only ``asyncio.run`` are here. Each command calls a service, the
buyer's library, or the operator's interface of a running node, and holds no rule of its own.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ``viz --version`` alone imports nothing more."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"viz {version('viz-node')}\n")
        return
    from viz.cli.main import app

    app()


__all__ = ["main"]
