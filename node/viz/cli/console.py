"""What every command shares: one way to print, one way to fail, the only ``asyncio.run``.

Results go to standard output, everything else to standard error. ``show`` alone decides between
words and JSON, which every command has. What an exit code means is ``MEANINGS``, which
``viz --help`` prints. What others wrote reaches a terminal through ``plain`` only.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from viz import errors
from viz.domain.display import symbol_of
from viz.domain.units import format_units
from viz.errors import VizError

T = TypeVar("T")
P = ParamSpec("P")

EXIT_CODES: dict[type[VizError], int] = {
    errors.ConfigError: 3,
    errors.InputError: 4,
    errors.PaymentError: 5,
    errors.ChainError: 6,
    errors.LicenseError: 7,
    errors.StorageError: 8,
    errors.StoreError: 9,
    errors.EngineError: 10,
    errors.TrainingError: 11,
    errors.BuyerError: 12,
}

AUDIT_DIFFERENT: Final = 13
AUDIT_INCONCLUSIVE: Final = 14
MEANINGS: dict[int, str] = {
    0: "done",
    1: "a fault of ours",
    2: "wrong usage",
    3: "configuration",
    4: "input",
    5: "payment",
    6: "chain",
    7: "license",
    8: "storage",
    9: "ledger",
    10: "engine",
    11: "training",
    12: "the node, or what it was caught at",
    AUDIT_DIFFERENT: "an audit found a manifest that is not true",
    AUDIT_INCONCLUSIVE: "an audit could show nothing",
    130: "interrupted",
}

# Into a file or a pipe a line is as long as what it says: a script reads whole CIDs and addresses.
_PIPED_COLUMNS: Final = 10_000
out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
err = Console(stderr=True, highlight=False)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON; a command that runs on prints one line of it.")
]
KeyFile = Annotated[
    Path, typer.Option("--key", help="Encrypted key file (make one with `viz key new`).")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file", help="File with the key's password; else VIZ_KEY_PASSWORD[_FILE]."
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where files are kept; else VIZ_DATA_DIR, .viz.")
]
DeploymentFile = Annotated[
    Path | None,
    typer.Option(
        "--deployment", help="The contracts you trust; else deployment.json (`viz trust`)."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Agree without being asked.")]


def exit_code(error: VizError) -> int:
    """Return the exit code of the error's family."""
    return next((code for family, code in EXIT_CODES.items() if isinstance(error, family)), 1)


def fail(error: VizError) -> NoReturn:
    """Print the error as one line that names what to do, and leave with its family's code."""
    line = plain(" ".join(str(error).split()))
    err.print(f"[red]{error.code}[/red]: ", end="")
    err.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(exit_code(error))


# Several scripts cannot be written without them, and they turn no text around.
_JOINERS: Final = "\u200c\u200d"


def plain(text: str, keep: str = "") -> str:
    """Return a stranger's text without what commands a terminal, but for what is to be kept.

    That is every control character, C0 and C1, and so every escape sequence; every format
    character that turns text around or hides it; and line separators. What followed an escape
    stays as letters.
    """
    return "".join(
        letter
        for letter in text
        if letter.isprintable()
        or letter in keep
        or letter in _JOINERS
        or unicodedata.category(letter) == "Zs"
    )


def say(line: str, *, style: str | None = None) -> None:
    """Print a line that holds words of others: neither commands nor markup are read in it."""
    out.print(plain(line), markup=False, style=style, soft_wrap=True)


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command answer deliberate errors with one line and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except VizError as error:
            fail(error)
        except OSError as error:
            # A folder that is none, rights, a full disk: the reader's to mend, not a fault of ours.
            if error.filename is None:
                raise
            fail(errors.ConfigError(f"{error.filename}: {error.strerror}: {_remedy(error)}"))

    return wrapped


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on its disk"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "make it accessible to you, or choose another place"
    return "choose another place"


def run(main: Coroutine[Any, Any, T], *, logs: bool = True) -> T:
    """Run a command's coroutine; a deliberate error within a group of them comes out alone.

    What its parts log goes to standard error, and is no part of a result nor of its JSON. A command
    that only asks the node over HTTP ``logs`` nothing, and saves the time to import that.
    """
    if logs:
        from viz import log

        log.configure("warning")
    try:
        return asyncio.run(main)
    except BaseExceptionGroup as group:
        raise (_deliberate(group) or group) from group
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def until_signal(work: Coroutine[Any, Any, None], told: str = "") -> None:
    """Run ``work`` until it ends, or until SIGINT or SIGTERM ends it in good order.

    ``told`` is said at the signal: why it may take a while.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if told:
            err.print(told)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise


def _deliberate(group: BaseExceptionGroup[BaseException]) -> VizError | None:
    for error in group.exceptions:
        if isinstance(error, VizError):
            return error
        if isinstance(error, BaseExceptionGroup) and (found := _deliberate(error)) is not None:
            return found
    return None


def show(value: Any, *, as_json: bool, runs_on: bool = False) -> bool:
    """Print ``value`` as JSON when asked to; return whether that was all there is to print.

    A command that ``runs_on`` after it prints one line, so that its reader knows where it ends.
    """
    if as_json:
        indent = None if runs_on else 2
        sys.stdout.write(json.dumps(value, indent=indent, default=str) + "\n")
        sys.stdout.flush()
    return as_json


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose name starts with ``#`` are numbers, set to the right."""
    # Not the table's own title: that is folded to the table's width.
    out.print(Text(plain(title), style="bold"), soft_wrap=True)
    drawn = Table(header_style="dim")
    for column in columns:
        number = column.startswith("#")
        # Folded, never cut: a CID or an address without its end is of no use.
        drawn.add_column(
            column.removeprefix("#"), justify="right" if number else "left", overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(Text(plain(str(cell))) for cell in row))
    out.print(drawn)


def lines(title: str, rows: Iterable[tuple[str, object]], *, to: Console = out) -> None:
    """Print a title and its rows, a line each: what a person reads before agreeing."""
    told = [(name, plain(str(value))) for name, value in rows]
    width = max((len(name) for name, _ in told), default=0)
    to.print(plain(title), markup=False)
    for name, value in told:
        to.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


def money(units: object, found: Mapping[str, Any]) -> str:
    """Return an amount with its unit; ``found`` is a node's answer that tells the token."""
    spelled = format_units(int(str(units)), int(found["tokenDecimals"]))
    return f"{spelled} {symbol_of(found.get('tokenSymbol'))}"


def agreed(question: str, *, yes: bool) -> None:
    """Go on if the person agrees: by --yes, or by an answer on a terminal; else leave with 4.

    Raises InvalidRequest where there is neither.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.InvalidRequest(f"{question} Nobody is here to answer: read it, and add --yes")
    if not typer.confirm(question, err=True):
        raise errors.InvalidRequest("nothing was signed and nothing was kept")


def password(file: Path | None, *, confirm: bool = False) -> str:
    """Return the key's password from ``file``, the environment, or a prompt on a terminal.

    Raises InvalidKeyFile when there is none of the three.
    """
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise errors.InvalidKeyFile(
                f"the password file {file} cannot be read: {error.strerror}"
            ) from error
    from viz.secret import secret

    if given := secret("VIZ_KEY_PASSWORD").get_secret_value():
        return given
    if not sys.stdin.isatty():
        raise errors.InvalidKeyFile(
            "no password: give --password-file, or set VIZ_KEY_PASSWORD or VIZ_KEY_PASSWORD_FILE"
        )
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))


def data_dir(given: Path | None = None) -> Path:
    """Return where this person's files are kept: --data-dir, else VIZ_DATA_DIR, else ``.viz``."""
    return given or Path(os.environ.get("VIZ_DATA_DIR", ".viz"))
