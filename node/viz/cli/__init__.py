"""The command ``viz``: one module a group of commands, imported when its group is used.

Owns words, tables, exit codes and the only ``asyncio.run``. Knows no rule of its own: each command
calls a service, the buyer's library, or the running node's operator interface.
"""

from viz.cli.main import main

__all__ = ["main"]
