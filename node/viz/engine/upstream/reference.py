"""Provide the right answers to the canary: our own pass of base and adapter, cached on disk.

Owns the child process that computes them, one at a time, and the files, named by the digests of
base, text and adapter. So nothing is computed again after a restart, and no server is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Final

import structlog

from viz.basemodel.source import LoadedBase
from viz.child_process import tied
from viz.domain.strict_json import load_json
from viz.engine.upstream.canary import CANARY_TEXT, CANARY_TOKENS, Candidates, beginnings
from viz.engine.upstream.peft_folder import SharedAdapter
from viz.errors import EngineError

ExpectedRows = tuple[Candidates, ...]
BATCH: Final = 16
LONGEST_S: Final = 1_800.0
_MAX_ANSWER_BYTES: Final = 1 << 20
_STDERR_BYTES: Final = 4_096
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
_log = structlog.get_logger()


class ReferenceValues:
    """The expected candidates after each prefix of the canary's text, by adapter."""

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        self.prompt: tuple[int, ...] = base.tokenizer.encode(CANARY_TEXT)[:CANARY_TOKENS]
        self._known: dict[str, ExpectedRows] = {}
        self._wanted: dict[str, tuple[SharedAdapter, asyncio.Future[None]]] = {}
        self._worker: asyncio.Task[None] | None = None
        text = hashlib.sha256(repr((CANARY_TEXT, beginnings(self.prompt))).encode()).hexdigest()[
            :16
        ]
        self._folder = base.serving_file.parent.parent / "canary" / f"{base.digest.hex()}-{text}"

    @property
    def known(self) -> dict[str, ExpectedRows]:
        """The values known so far, by the adapters' names at the servers."""
        return self._known

    def forget(self, name: str) -> None:
        """Drop a removed adapter's values from memory; its file stays."""
        self._known.pop(name, None)

    @property
    def folder(self) -> Path:
        """The folder of the cached values."""
        return self._folder

    async def of(self, adapter: SharedAdapter) -> ExpectedRows:
        """Return the expected values of an adapter; compute them if necessary.

        Takes seconds for a small base, minutes for a large one, once per adapter. Raises
        EngineError.
        """
        name = adapter.name
        if name in self._known:
            return self._known[name]
        kept = await asyncio.to_thread(self._read, adapter)
        if kept is None:
            await self._computed(adapter)
        else:
            self._known[name] = kept
        return self._known[name]

    async def close(self) -> None:
        """Stop the child process if one is running."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})

    async def _computed(self, adapter: SharedAdapter) -> None:
        name = adapter.name
        if name not in self._wanted:
            self._wanted[name] = adapter, asyncio.get_running_loop().create_future()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        # Shielded, so that a cancelled waiter does not cancel the computation for the others.
        await asyncio.shield(self._wanted[name][1])

    async def _work(self) -> None:
        while self._wanted:
            batch = {name: adapter for name, (adapter, _) in list(self._wanted.items())[:BATCH]}
            errors: dict[str, EngineError] = {}
            try:
                await self._run(batch)
            except EngineError as error:
                errors = await self._each_alone(batch, error)
            for name in batch:
                _, waiting = self._wanted.pop(name)
                if name in errors:
                    waiting.set_exception(errors[name])
                    waiting.exception()  # retrieve the exception if nobody waits any more
                else:
                    waiting.set_result(None)

    async def _each_alone(
        self, batch: dict[str, SharedAdapter], error: EngineError
    ) -> dict[str, EngineError]:
        """Compute each adapter of a failed batch alone; return the errors of those that fail."""
        if len(batch) == 1:
            _log.error("a canary's expected values could not be computed", reason=str(error))
            return dict.fromkeys(batch, error)
        errors: dict[str, EngineError] = {}
        for name, adapter in batch.items():
            try:
                await self._run({name: adapter})
            except EngineError as alone:
                _log.error("a canary's expected values could not be computed", reason=str(alone))
                errors[name] = alone
        return errors

    async def _run(self, batch: dict[str, SharedAdapter]) -> None:
        adapters = list(batch.values())
        job = {
            "directory": str(self._base.directory),
            "serving_file": str(self._base.serving_file),
            "base": self._base.digest.hex(),
            "prompt": list(self.prompt),
            "adapters": [str(adapter.weights) for adapter in adapters],
        }
        rows = _rows(
            await _in_child(json.dumps(job).encode()), len(adapters), len(beginnings(self.prompt))
        )
        for adapter, row in zip(adapters, rows, strict=True):
            self._known[adapter.name] = row
            await asyncio.to_thread(self._keep, adapter, row)

    def _place(self, adapter: SharedAdapter) -> Path:
        return self._folder / f"{adapter.digest.hex()}.json"

    def _read(self, adapter: SharedAdapter) -> ExpectedRows | None:
        try:
            found = json.loads(self._place(adapter).read_bytes())
            return _row(found, len(beginnings(self.prompt)))
        except (OSError, ValueError, TypeError, EngineError):
            return None

    def _keep(self, adapter: SharedAdapter, row: ExpectedRows) -> None:
        place = self._place(adapter)
        with contextlib.suppress(OSError):  # it is then computed again after a restart
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps([list(each.items()) for each in row]))
            partial.replace(place)


async def _in_child(job: bytes) -> bytes:
    """Run the child on one job and return its answer. Raises EngineError."""
    child = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-m", "viz.engine.upstream.reference_child"]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | _OFFLINE,
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            answer, said = await child.communicate(job)
    except TimeoutError as error:
        raise EngineError("the reference pass did not end in time") from error
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode or len(answer) > _MAX_ANSWER_BYTES:
        last = said[-_STDERR_BYTES:].decode(errors="replace").strip().splitlines()
        raise EngineError(f"the reference pass failed: {last[-1] if last else 'no word'}")
    return answer


def _rows(answer: bytes, adapters: int, places: int) -> list[ExpectedRows]:
    told: Any = load_json(answer, last_counts=True)
    if "failed" in told:
        raise EngineError(f"the reference pass failed: {told['failed']}")
    rows = [_row(row, places) for row in told["rows"]]
    if len(rows) != adapters:
        raise EngineError("the reference pass answered for other models")
    return rows


def _row(found: Any, places: int) -> ExpectedRows:
    """Return the row as numbers; raise EngineError if it has infinite or missing values."""
    row = tuple({int(token): float(value) for token, value in place} for place in found)
    sound = all(math.isfinite(value) for place in row for value in place.values())
    if len(row) != places or not all(row) or not sound:
        raise EngineError("the model's numbers overflow with this adapter: it cannot be served")
    return row
