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
from viz.basemodel.shape_reader import kept_shape
from viz.basemodel.source import DEFAULT_BASE, LoadedBase, converted_directory, load_base
from viz.child_process import tied
from viz.domain.units import Hash32
from viz.errors import ModelUnavailable

# Called with the finished part of the work, 0 to 1.
ReportProgress = Callable[[float], None]

# The measured part of the child's time for imports and conversion; the rest is quantisation.
_CONVERTED: Final = 0.8
_STDERR_BYTES: Final = 4096
_ANY: Final = "any"
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
    if not await asyncio.to_thread(_is_readable, source, cache_dir):
        await _in_child(source, cache_dir, allowed, report)
    base = await asyncio.to_thread(load_base, source, cache_dir=cache_dir, allowed=allowed)
    if not base.serving_file.exists():
        await _in_child(source, cache_dir, allowed, report)
    return base


def _is_readable(source: str, cache_dir: Path) -> bool:
    """Return whether ``load_base`` needs neither a conversion nor transformers."""
    directory = converted_directory(cache_dir) if source == DEFAULT_BASE else Path(source)
    if not directory.is_dir():
        return source != DEFAULT_BASE  # ``load_base`` says what is wrong
    return kept_shape(directory, cache_dir).exists()


async def _in_child(
    source: str, cache_dir: Path, allowed: Collection[Hash32] | None, report: ReportProgress
) -> None:
    accepted = _ANY if allowed is None else ",".join(each.hex() for each in allowed)
    command = [sys.executable, "-m", "viz.basemodel.preparation", source, str(cache_dir), accepted]
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
    """Convert and quantise the model named in ``argv``; report the steps on standard output.

    The arguments are the source, the cache and the accepted digests (or _ANY).
    """
    # Standard output is only for our lines: what a library prints is redirected to standard error.
    told = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    source, cache_dir, accepted = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    digests = [
        Hash32(bytes.fromhex(each)) for each in accepted.split(",") if each not in ("", _ANY)
    ]
    try:
        base = load_base(
            source,
            cache_dir=cache_dir,
            allowed=None if accepted == _ANY else digests,
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
