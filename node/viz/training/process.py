"""Start a run's worker from the parent, pass on its events, notice its death, cancel it.

Owns the child process. Invariants: the child never outlives ``events``; if the reader leaves early,
the child of a run that may go on later first saves its current step; an event stream ends with
``result``, or raises; a worker that says nothing for 15 minutes (or a quarter of the time limit, if
that is longer) is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from viz import errors
from viz.child_process import tied
from viz.errors import TrainingCancelled, TrainingError, TrainingWorkerDied
from viz.protocol.problems import class_of
from viz.training.environment import child_environment
from viz.training.run import Bounds, TrainingRun

# The largest event is the result with its loss curve.
_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
# The worker stops between steps; a step that takes longer is cut off.
_STOP_GRACE_S: Final = 60.0
# Beyond the worker's own time bound, for its start and its measurements.
_TIME_SLACK_S: Final = 120.0
# A worker tells of every step, and the rest that it does between two events is a few steps' worth.
_SILENCE_S: Final = 900.0
_EXIT_GRACE_S: Final = 10.0
_KEPT_STDERR_BYTES: Final = 4_000
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_KEPT_ENVIRONMENT: Final = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
    | {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", _VISIBLE, "CUDA_DEVICE_ORDER"}
)


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """One thing that happened.

    ``kind`` is started, step, evaluated, checkpoint, measuring or result.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)


class TrainingProcess:
    """One run in one child process."""

    def __init__(
        self,
        run: TrainingRun,
        directory: Path,
        *,
        goes_on: bool = True,
        cuda_index: int | None = None,
    ) -> None:
        """``goes_on``: the run may go on later in ``directory``, so that a stop waits for a step.

        A run that does not is killed at a stop, at its time bound, and when this process dies.
        ``cuda_index`` is the CUDA device that a run on "cuda" takes, as torch counts them.
        """
        self._run, self._directory = run, directory
        self._goes_on, self._cuda_index = goes_on, cuda_index
        self._process: asyncio.subprocess.Process | None = None
        self._cancelled = False

    @property
    def pid(self) -> int | None:
        """Return the worker's process id while it runs."""
        return self._process.pid if self._process else None

    async def events(self) -> AsyncGenerator[TrainingEvent, None]:
        """Run the worker and yield its events.

        Raises TrainingCancelled, TrainingWorkerDied, or the error that the worker reports.
        """
        self._run.save(self._directory)
        log = self._directory / "worker.log"
        at_death = signal.SIGTERM if self._goes_on else signal.SIGKILL
        command = [sys.executable, "-m", "viz.training.worker", str(self._directory)]
        with log.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *tied(command, at_death),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=_MAX_EVENT_BYTES,
                # Ctrl-C on the terminal is for the parent: the worker would take it for a cancel.
                start_new_session=True,
                env=self._environment(),
            )
        slack_s = _TIME_SLACK_S if self._goes_on else 0.0
        deadline = time.monotonic() + self._run.bounds.time_s + slack_s
        try:
            if self._cancelled:
                # The cancellation came before the process existed.
                await self._end()
            while line := await self._line(deadline):
                event = _parse(line)
                if event.kind == "result":
                    # Everything is on the disk by now: killing the worker would lose nothing.
                    await self._leave()
                    yield event
                    return
                yield event
            await self._leave()
        except (asyncio.CancelledError, GeneratorExit):
            await self._stop()
            raise
        finally:
            await self._end()
        if self._cancelled:
            raise TrainingCancelled("the training run was cancelled")
        raise TrainingWorkerDied(
            f"the training process ended with status {self._process.returncode} before its "
            f"result; its last words are in {log}",
            last_words=_tail(log),
            exit_status=self._process.returncode,
        )

    async def cancel(self) -> None:
        """Ask the worker to stop after its step and a checkpoint; kill it if it does not."""
        self._cancelled = True
        await self._stop()

    async def _stop(self) -> None:
        """Let the worker finish and save its step, even if a second request to stop comes."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not self._goes_on:
            await self._end()
            return
        process.terminate()
        ended = asyncio.ensure_future(asyncio.wait_for(process.wait(), _STOP_GRACE_S))
        try:
            await asyncio.shield(ended)
        except TimeoutError:
            await self._end()

    async def _line(self, deadline: float) -> bytes:
        """Return the worker's next line, empty at its end. No timeout may span a ``yield``."""
        assert self._process is not None
        assert self._process.stdout is not None
        left, silence = deadline - time.monotonic(), _silence_s(self._run.bounds)
        try:
            async with asyncio.timeout(min(left, silence)):
                return await self._process.stdout.readline()
        except TimeoutError as error:
            if left > silence:
                why = f"gave no sign of life for {silence:.0f} s"
            elif self._goes_on:
                why = "hung beyond its time bound"
            else:
                why = f"used up its {self._run.bounds.time_s} s: allow more,"
            raise TrainingError(f"the run {why} and was ended") from error

    async def _leave(self) -> None:
        """Wait for the worker to exit after its last event; end it if it does not."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_GRACE_S):
                await self._process.wait()
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())

    def _environment(self) -> dict[str, str]:
        """Return the child's environment, without the parent's keys, passwords and tokens."""
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT & set(os.environ)}
        source = str(Path(errors.__file__).parent.parent)
        if self._cuda_index is not None and self._run.settings.device == "cuda":
            # The child sees one device, and counts it as the first.
            visible = [each for each in kept.get(_VISIBLE, "").split(",") if each]
            kept[_VISIBLE] = visible[self._cuda_index] if visible else str(self._cuda_index)
        return {**kept, "PYTHONPATH": source, **child_environment(self._run.settings)}


def _silence_s(bounds: Bounds) -> float:
    """Return how long a worker may be silent: longer if its time limit is longer."""
    return max(_SILENCE_S, bounds.time_s / 4)


def _parse(line: bytes) -> TrainingEvent:
    try:
        values: Any = json.loads(line)
        kind = values.pop("event")
    except (ValueError, KeyError, AttributeError) as error:
        raise TrainingError("the training process sent something that is not an event") from error
    if kind == "failed":
        kind_of_error = class_of(values.get("code")) or TrainingError
        raise kind_of_error(str(values.get("detail")))
    if kind == "cancelled":
        raise TrainingCancelled(str(values.get("detail")))
    return TrainingEvent(str(kind), values)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _KEPT_STDERR_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
