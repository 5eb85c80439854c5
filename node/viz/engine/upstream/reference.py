"""Know what a server should answer to the canary: our own pass of base and adapter, kept on disk.

Owns the child process that computes it, one at a time, and the file that keeps it by the digests of
base, text and adapter. So a restart computes nothing again, and nobody's word is taken.
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
from viz.engine.upstream.canary import CANARY_TEXT, CANARY_TOKENS
from viz.engine.upstream.peft_folder import SharedAdapter
from viz.errors import EngineError

BATCH: Final = 16
LONGEST_S: Final = 1_800.0
_MAX_ANSWER_BYTES: Final = 1 << 20
_STDERR_BYTES: Final = 4_096
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
BASE: Final = "base"
_log = structlog.get_logger()


class ReferenceValues:
    """The expected log-probabilities of the base and of every adapter that was asked for."""

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        self.prompt: tuple[int, ...] = base.tokenizer.encode(CANARY_TEXT)[:CANARY_TOKENS]
        self._known: dict[str, tuple[float, ...]] = {}
        self._wanted: dict[str, tuple[SharedAdapter | None, asyncio.Future[None]]] = {}
        self._worker: asyncio.Task[None] | None = None
        text = hashlib.sha256(repr((CANARY_TEXT, self.prompt)).encode()).hexdigest()[:16]
        self._folder = base.serving_file.parent.parent / "canary" / f"{base.digest.hex()}-{text}"

    @property
    def known(self) -> dict[str, tuple[float, ...]]:
        """What is known by now, by the name on the servers; the base is ``BASE``."""
        return self._known

    def forget(self, name: str) -> None:
        """Drop a removed adapter's values; its file stays."""
        self._known.pop(name, None)

    async def of(self, adapter: SharedAdapter | None) -> tuple[float, ...]:
        """Return the expected values of an adapter, or of the base; compute them if needed.

        Seconds for a small base, minutes for a large one, once an adapter. Raises EngineError.
        """
        name = BASE if adapter is None else adapter.name
        if name in self._known:
            return self._known[name]
        kept = await asyncio.to_thread(self._read, adapter)
        if kept is None:
            await self._computed(name, adapter)
        else:
            self._known[name] = kept
        return self._known[name]

    async def close(self) -> None:
        """End the child, if one runs."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})

    async def _computed(self, name: str, adapter: SharedAdapter | None) -> None:
        if name not in self._wanted:
            self._wanted[name] = adapter, asyncio.get_running_loop().create_future()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        # Shielded: who gives up waiting does not take the result from the others.
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
                    waiting.exception()  # seen, if nobody waits any more
                else:
                    waiting.set_result(None)

    async def _each_alone(
        self, batch: dict[str, SharedAdapter | None], error: EngineError
    ) -> dict[str, EngineError]:
        """Compute each of a failed batch alone; return the errors of those that fail alone too."""
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

    async def _run(self, batch: dict[str, SharedAdapter | None]) -> None:
        adapters = [adapter for adapter in batch.values() if adapter is not None]
        job = {
            "directory": str(self._base.directory),
            "serving_file": str(self._base.serving_file),
            "base": self._base.digest.hex(),
            "prompt": list(self.prompt),
            "adapters": [str(adapter.weights) for adapter in adapters],
        }
        rows = _rows(await _in_child(json.dumps(job).encode()), len(adapters), len(self.prompt) - 1)
        for adapter, row in zip((None, *adapters), rows, strict=True):
            self._known[BASE if adapter is None else adapter.name] = row
            await asyncio.to_thread(self._keep, adapter, row)

    def _place(self, adapter: SharedAdapter | None) -> Path:
        return self._folder / f"{BASE if adapter is None else adapter.digest.hex()}.json"

    def _read(self, adapter: SharedAdapter | None) -> tuple[float, ...] | None:
        try:
            found = json.loads(self._place(adapter).read_bytes())
            return _row(found, len(self.prompt) - 1)
        except (OSError, ValueError, EngineError):
            return None

    def _keep(self, adapter: SharedAdapter | None, row: tuple[float, ...]) -> None:
        place = self._place(adapter)
        with contextlib.suppress(OSError):  # then it is computed again after a restart
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(row))
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


def _rows(answer: bytes, adapters: int, tokens: int) -> list[tuple[float, ...]]:
    told: Any = load_json(answer)
    if "failed" in told:
        raise EngineError(f"the reference pass failed: {told['failed']}")
    rows = [_row(row, tokens) for row in told["rows"]]
    if len(rows) != adapters + 1:
        raise EngineError("the reference pass answered for other models")
    return rows


def _row(found: Any, tokens: int) -> tuple[float, ...]:
    """Return the row as numbers; raise EngineError if it cannot be compared with."""
    row = tuple(float(each) for each in found)
    if len(row) != tokens or not all(math.isfinite(each) for each in row):
        raise EngineError("the model's numbers overflow with this adapter: it cannot be served")
    return row
