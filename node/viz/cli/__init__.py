"""Run the command ``viz``: one module for each group of commands, imported when the group is used.

Words, tables, exit codes and the only ``asyncio.run`` are here. Each command calls a service, the
buyer's library, or the operator's interface of a running node, and holds no rule of its own.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO, cast

from viz.cli.exit_codes import OUTPUT_LOST, PIPE_CLOSED

# The number of new objects after which the garbage collector runs. A command makes most of its
# objects while it imports, and keeps them until it ends: with Python's 700, a short command spent a
# fifth of its time in the collector. A long-running command sets Python's value again
# (``console.until_signal``).
_COLLECT_AFTER: Final = 100_000


class _Noting:
    """A standard stream that remembers the first error of writing to it."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write to the stream; raise OSError as it does."""
        try:
            return self._to.write(text)
        except OSError as error:
            self.lost = self.lost or error
            raise

    def flush(self) -> None:
        """Write what waits; raise OSError as the stream does."""
        try:
            self._to.flush()
        except OSError as error:
            self.lost = self.lost or error
            raise

    def drop(self) -> None:
        """Drop what waits and could not be written: it would fail again as the process ends."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._to.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)


def main() -> None:
    """Run the command line. If what it prints cannot be written, the exit code says so."""
    kept = sys.stdout, sys.stderr
    outputs = _Noting(kept[0] or _nowhere()), _Noting(kept[1] or _nowhere())
    sys.stdout, sys.stderr = (cast("TextIO", each) for each in outputs)
    try:
        _command()
    except BaseException as ended:
        _require_printed(outputs, ended)
        if isinstance(ended, SystemExit):
            _leave(ended.code)
        raise
    else:
        _require_printed(outputs)
    finally:
        sys.stdout, sys.stderr = kept


def _nowhere() -> TextIO:
    """Return a stream for the place of a standard one that the caller closed (``>&-``)."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _command() -> None:
    """Run one command; ``viz --version`` alone imports nothing more."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"viz {version('viz-node')}\n")
        return
    gc.set_threshold(_COLLECT_AFTER)
    signal.signal(signal.SIGTERM, _terminated)
    from viz.cli.main import app
    from viz.private import be_private

    be_private()
    app()


def _require_printed(outputs: Sequence[_Noting], ended: BaseException | None = None) -> None:
    """Return if all that was printed is written; else end the process, unless ``ended`` says more.

    A reader that went away, such as ``head``, is no fault: the command ends silently. A usage
    error whose message could not be printed ends with its own code.
    """
    lost: OSError | None = None
    for output in outputs:
        with suppress(OSError, ValueError):  # it is noted, or the stream is closed
            output.flush()
        if output.lost is not None:
            lost = lost or output.lost
            output.drop()
    told = isinstance(ended, SystemExit) and ended.code not in (None, 0, 1)
    other = ended is not None and not isinstance(ended, SystemExit | OSError | BaseExceptionGroup)
    if lost is None or told or other:
        return
    code = _untold(ended) or (PIPE_CLOSED if lost.errno == errno.EPIPE else OUTPUT_LOST)
    if code == OUTPUT_LOST:
        said = outputs[-1]
        try:
            said.write(
                f"output-lost: what was printed cannot be written: {lost.strerror}; what the "
                "command did stands\n"
            )
            said.flush()
        except OSError:
            said.drop()
    _leave(code)
    raise SystemExit(code) from None


def _untold(ended: BaseException | None) -> int:
    """Return the exit code of the usage error whose message could not be printed; 0 for none."""
    while ended is not None:
        if isinstance(code := getattr(ended, "exit_code", 0), int) and code:
            return code
        ended = ended.__context__
    return 0


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
