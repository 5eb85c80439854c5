"""Name the exit codes of a command whose output could not be written.

Both mean that the command itself did not fail, and that nobody read how it ended: what it signed,
sent and wrote before stands. A command that failed ends with the code of its error, even if that
could not be printed either. ``viz channel show`` and ``viz buyer spending`` show a buyer's money,
``viz content list`` a creator's works. Those of errors are in ``viz.cli.console``.
"""

from __future__ import annotations

from typing import Final

OUTPUT_LOST: Final = 15
# What a shell shows of the tools that SIGPIPE ends. It stays ignored here: sockets would send it.
PIPE_CLOSED: Final = 128 + 13
