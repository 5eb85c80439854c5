"""Fetch, convert and quantise a base model once, in child processes that report their progress.

The first child fetches a model from a hub; only this one uses the network. The second child imports
transformers and bitsandbytes and holds the weights twice (about 1 GB for the packaged model). If
the daemon did this in its own process, it would keep much of that memory. Invariant: the child
writes exactly what ``load_base`` and ``serving_weights`` write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from viz.basemodel.hub import fetch, hub_model
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.shape_reader import kept_shape
from viz.basemodel.source import LoadedBase, kept_directory, load_base
from viz.child_process import tied
from viz.domain.units import Hash32
from viz.errors import ModelUnavailable

# Called with the finished part of the work, 0 to 1.
ReportProgress = Callable[[float], None]

# The measured part of the child's time for imports and conversion; the rest is quantisation.
_CONVERTED: Final = 0.8
_STDERR_BYTES: Final = 4096
_ANY: Final = "any"
# What a child does: fetch the files from a hub, or convert and quantise them.
_FETCH: Final = "fetch"
_PREPARE: Final = "prepare"
# The fraction of the progress bar for the fetch.
_FETCHED: Final = 0.8
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# Plain HTTP, which can continue an interrupted fetch, and no telemetry of the library.
_ONLINE: Final = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DOWNLOAD_TIMEOUT": "30",
}


async def prepared_base(
    source: str,
    *,
    cache_dir: Path,
    allowed: Collection[Hash32] | None = None,
    report: ReportProgress = lambda done: None,
) -> LoadedBase:
    """Return the base model with its serving weights on disk; a child makes what is missing.

    ``report`` is called at the start, at each step and at the end of that work, and not at all if
    everything is on disk. Cancelling the call ends the child. Raises ModelUnavailable.
    """
    hub = hub_model(source)
    if hub is not None and not hub.folder(cache_dir).is_dir():
        await _in_child(_FETCH, source, cache_dir, None, _part(report, 0.0, _FETCHED))
        report = _part(report, _FETCHED, 1.0)
    if not await asyncio.to_thread(_is_readable, source, cache_dir):
        await _in_child(_PREPARE, source, cache_dir, allowed, report)
    base = await asyncio.to_thread(load_base, source, cache_dir=cache_dir, allowed=allowed)
    if not base.serving_file.exists():
        await _in_child(_PREPARE, source, cache_dir, allowed, report)
    return base


def _part(report: ReportProgress, start: float, end: float) -> ReportProgress:
    return lambda done: report(start + (end - start) * done)


def _is_readable(source: str, cache_dir: Path) -> bool:
    """Return whether ``load_base`` needs neither a conversion nor transformers."""
    directory = kept_directory(source, cache_dir)
    if directory is None:
        return False
    return not directory.is_dir() or kept_shape(directory, cache_dir).exists()


async def _in_child(
    work: str,
    source: str,
    cache_dir: Path,
    allowed: Collection[Hash32] | None,
    report: ReportProgress,
) -> None:
    accepted = _ANY if allowed is None else ",".join(each.hex() for each in allowed)
    command = [sys.executable, "-m", "viz.basemodel.preparation", work, source, str(cache_dir)]
    command.append(accepted)
    child = await asyncio.create_subprocess_exec(
        *tied(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # The libraries' progress bars and warnings go to the child's standard error. Only its last
        # line is shown, and only after a failure.
        env=os.environ | (_ONLINE if work == _FETCH else _OFFLINE),
    )
    assert child.stdout is not None and child.stderr is not None
    said = asyncio.ensure_future(_last(child.stderr))
    failure = ""
    report(0.0)
    try:
        async for line in child.stdout:
            kind, _, rest = line.decode(errors="replace").strip().partition(" ")
            if kind == "done":
                report(min(1.0, float(rest)))
            elif kind == "failed":
                failure = rest
        code = await child.wait()
        last = await said
    finally:
        said.cancel()
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if code:
        raise ModelUnavailable(failure or f"the base model could not be prepared: {last}")
    report(1.0)


async def _last(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end, so that its writer is never blocked; return the last line."""
    kept = b""
    while piece := await stream.read(_STDERR_BYTES):
        kept = (kept + piece)[-_STDERR_BYTES:]
    lines = kept.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _prepare(source: str, cache_dir: Path, accepted: str, report: ReportProgress) -> None:
    digests = [
        Hash32(bytes.fromhex(each)) for each in accepted.split(",") if each not in ("", _ANY)
    ]
    base = load_base(
        source,
        cache_dir=cache_dir,
        allowed=None if accepted == _ANY else digests,
        report=lambda part: report(_CONVERTED * part),
    )
    serving_weights(base, report=lambda part: report(_CONVERTED + (1 - _CONVERTED) * part))


def main() -> int:
    """Fetch, or convert and quantise, the model in ``argv``; report steps on standard output.

    The arguments are the task, the source, the cache and the accepted digests (or _ANY).
    """
    # Standard output is only for our lines: what a library prints is redirected to standard error.
    told = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    work, source, cache_dir, accepted = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    try:
        if work == _FETCH:
            model = hub_model(source)
            assert model is not None
            fetch(model, cache_dir, lambda part: print("done", part, file=told))
        else:
            _prepare(source, cache_dir, accepted, lambda part: print("done", part, file=told))
    except ModelUnavailable as error:
        print("failed", str(error.detail).replace("\n", " "), file=told)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
