"""The parent's side of a run: start the worker, pass on its events, notice its death, cancel it.

Owns the child process. Does not know what is trained or why. Invariants: the child never outlives
``events``; an event stream ends with ``result``, or raises.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from viz import errors
from viz.children import tied
from viz.errors import TrainingCancelled, TrainingError, TrainingWorkerDied, VizError
from viz.training.environment import child_environment
from viz.training.run import TrainingRun

# The largest event is the result with its loss curve.
_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
# The worker stops between steps; a step that takes longer is cut off.
_STOP_GRACE_S: Final = 60.0
# Beyond the worker's own time bound, for its start and its measurements.
_TIME_SLACK_S: Final = 120.0
_KEPT_STDERR_BYTES: Final = 4_000
_KEPT_ENVIRONMENT: Final = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
    | {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"}
)


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """One thing that happened.

    ``kind`` is started, step, evaluated, checkpoint, measuring or result.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)


class Runner:
    """One run in one child process."""

    def __init__(self, run: TrainingRun, directory: Path) -> None:
        self._run, self._directory = run, directory
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
        with log.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *tied([sys.executable, "-m", "viz.training.worker", str(self._directory)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=_MAX_EVENT_BYTES,
                env=self._environment(),
            )
        ended = False
        try:
            async with asyncio.timeout(self._run.bounds.time_s + _TIME_SLACK_S):
                while line := await self._line():
                    event = _parse(line)
                    ended = event.kind == "result"
                    yield event
                status = await self._process.wait()
        except TimeoutError as error:
            raise TrainingError("the run hung beyond its time bound and was ended") from error
        finally:
            await self._end()
        if not ended:
            if self._cancelled:
                raise TrainingCancelled("the training run was cancelled; start it again to resume")
            raise TrainingWorkerDied(
                f"the training process ended with status {status} before its result; its last "
                f"words are in {log}",
                last_words=_tail(log),
            )

    async def cancel(self) -> None:
        """Ask the worker to stop after its step and a checkpoint; kill it if it does not."""
        self._cancelled = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            await self._end()

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())

    def _environment(self) -> dict[str, str]:
        """Return what the child sees: no key, password or token of the parent's environment."""
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT & set(os.environ)}
        source = str(Path(errors.__file__).parent.parent)
        return {**kept, "PYTHONPATH": source, **child_environment(self._run.settings)}


def _parse(line: bytes) -> TrainingEvent:
    try:
        values: Any = json.loads(line)
        kind = values.pop("event")
    except (ValueError, KeyError, AttributeError) as error:
        raise TrainingError("the training process said something that is no event") from error
    if kind == "failed":
        raise _error_class(values.get("code"))(str(values.get("detail")))
    if kind == "cancelled":
        raise TrainingCancelled(str(values.get("detail")))
    return TrainingEvent(str(kind), values)


def _error_class(code: object) -> type[VizError]:
    known: list[type[VizError]] = [VizError]
    for found in known:
        if found.code == code:
            return found
        known += found.__subclasses__()
    return TrainingError


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _KEPT_STDERR_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
