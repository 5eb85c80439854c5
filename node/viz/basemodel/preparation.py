"""Convert and quantise a base model once, in a child process that reports its progress.

The child imports transformers and bitsandbytes and holds the weights twice: about 1 GB. A daemon
that converted in its own process would keep much of that memory until its end. Invariant: the child
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

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import DEFAULT_BASE, LoadedBase, converted_directory, load_base
from viz.child_process import tied
from viz.domain.units import Hash32
from viz.errors import ModelUnavailable

# Called with the finished part of the work, 0 to 1.
ReportProgress = Callable[[float], None]

# The measured part of the child's time for imports and conversion; the rest is quantisation.
_CONVERTED: Final = 0.8
_STDERR_BYTES: Final = 4096
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


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
    if source == DEFAULT_BASE and not converted_directory(cache_dir).is_dir():
        await _in_child(source, cache_dir, report)
    base = await asyncio.to_thread(load_base, source, cache_dir=cache_dir, allowed=allowed)
    if not base.serving_file.exists():
        await _in_child(source, cache_dir, report)
    return base


async def _in_child(source: str, cache_dir: Path, report: ReportProgress) -> None:
    command = [sys.executable, "-m", "viz.basemodel.preparation", source, str(cache_dir)]
    child = await asyncio.create_subprocess_exec(
        *tied(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # The libraries' progress bars and warnings go to the child's standard error. Only its last
        # line is shown, and only after a failure.
        env=os.environ | _OFFLINE,
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


def main() -> int:
    """Convert and quantise the model named in ``argv``; report the steps on standard output."""
    # Standard output is only for our lines: what a library prints is redirected to standard error.
    told = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    source, cache_dir = sys.argv[1], Path(sys.argv[2])
    try:
        base = load_base(
            source,
            cache_dir=cache_dir,
            report=lambda part: print("done", _CONVERTED * part, file=told),
        )
        serving_weights(
            base,
            report=lambda part: print("done", _CONVERTED + (1 - _CONVERTED) * part, file=told),
        )
    except ModelUnavailable as error:
        print("failed", str(error.detail).replace("\n", " "), file=told)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
