"""Name the exit codes of a command whose output could not be written.

Those of errors are in ``viz.cli.console``.
"""

from __future__ import annotations

from typing import Final

OUTPUT_LOST: Final = 15
# What a shell shows of the tools that SIGPIPE ends. It stays ignored here: sockets would send it.
PIPE_CLOSED: Final = 128 + 13
