"""How the one-time preparation of the base model is shown: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from viz.cli.console import err

if TYPE_CHECKING:
    from rich.console import Console

_SAID: Final = "Preparing the base model (once on this machine)"
_LINE_EVERY_S: Final = 5.0


@contextmanager
def preparing(
    console: Console = err, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[float], None]]:
    """Yield what is told the part that is done, 0 to 1; nothing is shown before the first call."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=console)
    bar = progress.add_task(_SAID, total=1.0)
    last_s = float("-inf")

    def report(done: float) -> None:
        nonlocal last_s
        if console.is_terminal:
            progress.start()
            progress.update(bar, completed=done)
            if done >= 1.0:
                progress.stop()
        elif done >= 1.0 or clock() - last_s >= _LINE_EVERY_S:
            last_s = clock()
            console.print(f"{_SAID}: {done:.0%}", soft_wrap=True)

    try:
        yield report
    finally:
        progress.stop()
