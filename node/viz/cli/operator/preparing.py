"""Show the one-time preparation of the base model: a bar on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from viz.cli.console import err

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_SAID: Final = "Preparing the base model (once on this machine)"
_LINE_EVERY_S: Final = 5.0


@contextmanager
def preparing(
    console: Console = err, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows the finished fraction, 0 to 1, from its first call on."""
    with ExitStack() as shown:
        yield (_bar if console.is_terminal else _lines)(console, clock, shown)


def _bar(
    console: Console, _clock: Callable[[], float], shown: ExitStack
) -> Callable[[float], None]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=console)
    bars: list[TaskID] = []

    def report(done: float) -> None:
        if not bars:
            shown.enter_context(progress)
            bars.append(progress.add_task(_SAID, total=1.0))
        progress.update(bars[0], completed=done)
        if done >= 1.0:
            # Log lines from now on must not disturb the bar.
            shown.close()

    return report


def _lines(
    console: Console, clock: Callable[[], float], _shown: ExitStack
) -> Callable[[float], None]:
    last_s = float("-inf")

    def report(done: float) -> None:
        nonlocal last_s
        if done >= 1.0 or clock() - last_s >= _LINE_EVERY_S:
            last_s = clock()
            console.print(f"{_SAID}: {done:.0%}", soft_wrap=True)

    return report
