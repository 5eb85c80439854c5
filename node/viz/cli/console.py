"""Define what all commands share: options, output, errors, and the only ``asyncio.run``.

Results go to standard output, everything else to standard error. Every command has ``--json``, and
only ``show`` chooses between words and JSON. ``MEANINGS`` lists the exit codes, and ``viz --help``
prints it. Text that others wrote is printed only through ``plain``.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import json
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from viz import errors
from viz.cli.exit_codes import OUTPUT_LOST, PIPE_CLOSED
from viz.domain.display import symbol_of
from viz.domain.units import format_units
from viz.errors import VizError
from viz.given_file import read_secret

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
    1: "an unexpected error in viz",
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
    12: "the node does not answer, refuses or is not trusted",
    AUDIT_DIFFERENT: "an audit found something false",
    AUDIT_INCONCLUSIVE: "an audit proved nothing",
    OUTPUT_LOST: "what was printed cannot be written, what was done stands",
    130: "interrupted",
    PIPE_CLOSED: "the reader of the output went away, what was done stands",
    143: "ended by SIGTERM",
}

# Python's own thresholds, which ``viz.cli.main`` raises for short commands.
_USUAL_COLLECTIONS: Final = (700, 10, 10)
# Lines to a file or a pipe are not folded: a script reads whole CIDs and addresses.
_PIPED_COLUMNS: Final = 10_000


class PlainConsole(Console):
    """A console on which no text controls the terminal, whoever wrote it and whoever prints it."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, texts without the characters that ``plain`` removes."""
        cleaned = (plain(each, keep="\n\t") if isinstance(each, str) else each for each in objects)
        super().print(*cleaned, **options)


out = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
err = PlainConsole(stderr=True, highlight=False)

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON; one line of it if the command keeps running."),
]
KeyFile = Annotated[
    Path, typer.Option("--key", help="Encrypted key file (make one with `viz key new`).")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help="File with the key's password. Default: VIZ_KEY_PASSWORD or VIZ_KEY_PASSWORD_FILE.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of your files. Default: VIZ_DATA_DIR, else .viz."),
]
DeploymentFile = Annotated[
    Path | None,
    typer.Option(
        "--deployment",
        help="File of the contracts that you trust. Default: the one that `viz trust` wrote.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Agree without being asked.")]
# Ids are counted from 1, and JSON holds whole numbers so far exactly.
MOST_WORKS: Final = 2**53 - 1
WorkId = Annotated[int, typer.Argument(min=1, max=MOST_WORKS, help="The work's id on the chain.")]
WorkPath = Annotated[Path, typer.Argument(help="A folder with a terms.toml, or a terms file.")]
BaseModelOption = Annotated[str, typer.Option(help="Name or folder of the base model.")]


def exit_code(error: VizError) -> int:
    """Return the exit code of the error's base class in ``EXIT_CODES``; 1 if it has none."""
    return next((code for family, code in EXIT_CODES.items() if isinstance(error, family)), 1)


def fail(error: VizError) -> NoReturn:
    """Print the error in one line, and end the process with its exit code.

    The code says what went wrong, even if nothing can be printed.
    """
    line = plain(" ".join(str(error).split()))
    with suppress(OSError, SystemExit):  # the latter is rich's for a reader that went away
        err.print(f"[red]{error.code}[/red]: ", end="")
        err.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(exit_code(error))


# Some writing systems need them, and they do not change the direction of text.
_JOINERS: Final = "\u200c\u200d"


def plain(text: str, keep: str = "") -> str:
    """Return text of others without the characters that can control a terminal.

    This removes all control characters (C0 and C1), and so the start of each escape sequence, whose
    letters stay; all format characters, which can reverse or hide text; and line separators. The
    characters in ``keep`` stay.
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
    """Print one line that contains text of others; control characters and markup have no effect."""
    out.print(plain(line), markup=False, style=style, soft_wrap=True)


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Wrap a command, so that a VizError or OSError ends it with one line and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except VizError as error:
            fail(error)
        except OSError as error:
            # A wrong path, missing rights or a full disk: the user can fix it.
            if error.filename is None:
                raise
            fail(errors.ConfigError(f"{error.filename}: {error.strerror}: {_remedy(error)}"))

    return wrapped


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space on its disk"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "give yourself access to it, or choose another path"
    return "choose another path"


def run(main: Coroutine[Any, Any, T], *, logs: bool = True, serves: bool = False) -> T:
    """Run a command's coroutine. A VizError in an exception group is raised alone.

    Log lines go to standard error, never into the result. Without ``logs`` no log is set up, which
    saves its import for commands that only call the node over HTTP. A command that ``serves``
    clients runs on the event loop of ``serving_loop``.
    """
    if logs:
        from viz import log

        log.configure("warning")
    try:
        with asyncio.Runner(loop_factory=serving_loop() if serves else None) as runner:
            return runner.run(main)
    except BaseExceptionGroup as group:
        raise (_deliberate(group) or group) from group
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def serving_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the event loop factory of a server: uvloop's if it is installed, else None.

    With uvloop an answer takes a fifth to a quarter less time (docs/payments-log.md). The core
    install and Windows do not have it; asyncio's own loop works there.
    """
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def until_signal(work: Coroutine[Any, Any, None], told: str = "") -> None:
    """Run ``work`` until it ends; SIGINT or SIGTERM cancels it and waits for its clean-up.

    ``told`` is printed at the signal, to say why the clean-up takes time.

    From here on, the garbage collector runs as usual, so that a daemon does not collect garbage. It
    skips imported objects, which live until the end.
    """
    gc.freeze()
    gc.set_threshold(*_USUAL_COLLECTIONS)
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
    """Print ``value`` as JSON if ``as_json``; return ``as_json``: then nothing else is printed.

    If the command keeps running (``runs_on``), the JSON is one line, so that its end is clear.
    """
    if as_json:
        indent = None if runs_on else 2
        sys.stdout.write(json.dumps(value, indent=indent, default=str) + "\n")
        sys.stdout.flush()
    return as_json


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a column whose name starts with ``#`` is aligned to the right."""
    # Printed apart, because rich folds a table's own title to the table's width.
    out.print(Text(plain(title), style="bold"), soft_wrap=True)
    drawn = Table(header_style="dim")
    for column in columns:
        number = column.startswith("#")
        # Folded, never cut: nobody can use a CID or an address without its end.
        drawn.add_column(
            column.removeprefix("#"), justify="right" if number else "left", overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(Text(plain(str(cell))) for cell in row))
    out.print(drawn)


def lines(title: str, rows: Iterable[tuple[str, object]], *, to: Console = out) -> None:
    """Print a title and one line for each row, for a person to read before agreeing."""
    told = [(name, plain(str(value))) for name, value in rows]
    width = max((len(name) for name, _ in told), default=0)
    to.print(plain(title), markup=False)
    for name, value in told:
        to.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


def money(units: object, found: Mapping[str, Any]) -> str:
    """Return an amount with its unit; ``found`` is a node's answer that names the token."""
    spelled = format_units(int(str(units)), int(found["tokenDecimals"]))
    return f"{spelled} {symbol_of(found.get('tokenSymbol'))}"


def agreed(question: str, *, yes: bool) -> None:
    """Return if the person agrees, by --yes or by an answer on a terminal.

    Raises InvalidRequest if the answer is no, and without --yes if there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.InvalidRequest(
            f"{question} There is no terminal to answer on: read the above and add --yes"
        )
    if not typer.confirm(plain(question), err=True):
        raise errors.InvalidRequest("you did not agree: nothing was signed and nothing was kept")


def password(file: Path | None, *, confirm: bool = False) -> str:
    """Return the key's password from ``file``, the environment, or a prompt on a terminal.

    Raises InvalidKeyFile if there is none of the three.
    """
    if file is not None:
        return read_secret(file, "the password file", errors.InvalidKeyFile)
    from viz.settings.secret import secret

    if given := secret("VIZ_KEY_PASSWORD").get_secret_value():
        return given
    if not sys.stdin.isatty():
        raise errors.InvalidKeyFile(
            "no password: give --password-file, or set VIZ_KEY_PASSWORD or VIZ_KEY_PASSWORD_FILE"
        )
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))


def data_dir(given: Path | None = None) -> Path:
    """Return the data folder: --data-dir, else VIZ_DATA_DIR, else ``.viz``."""
    return given or Path(os.environ.get("VIZ_DATA_DIR", ".viz"))
