"""Run the parsing child, limit its time and output, and find out which file broke it.

Owns the child process of ``worker``. Its environment has no secrets. It gets files as open
descriptors, so that it needs no paths. When a child dies, the first job without an answer is the
one that broke it; another child does the jobs after that one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from viz.child_process import tied
from viz.errors import ConfigError, InvalidWork

MAX_SOURCE_BYTES: Final = 64 * 1024 * 1024
MEMORY_BYTES: Final = 2 * 1024**3
# Limits of a child's CPU time, and of its wall-clock time, which is longer on a busy machine.
CPU_S: Final = 120
TIME_S: Final = 600
_BATCH: Final = 16
# The largest answer: a work's text, escaped as JSON, and its notes.
_MAX_ANSWER_BYTES: Final = _BATCH * 4 * 8 * 1024 * 1024
_KEPT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "HOME")
INSTALL: Final = (
    "install what reads such files: scripts/setup --core --intake in a checkout, or "
    "pip install 'viz-node[intake]'"
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One source to convert: a file's path or its bytes, and its ``name`` in messages."""

    name: str
    source: Path | bytes
    encoding: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused source, and why."""

    name: str
    why: str


def parse(
    jobs: Sequence[SourceFile], *, memory_bytes: int = MEMORY_BYTES, cpu_s: int = CPU_S
) -> Iterator[Any]:
    """Yield each job's result or Refused, in order. ``cpu_s`` limits one child's batch.

    Raises ConfigError if a library is missing, and OSError for a file that cannot be opened.
    """
    left = list(jobs)
    while left:
        batch = left[:_BATCH]
        answers = _run(batch, memory_bytes, cpu_s)
        yield from answers
        left = left[len(answers) :]


def parse_one(job: SourceFile, *, memory_bytes: int = MEMORY_BYTES, cpu_s: int = CPU_S) -> Any:
    """Return the job's result; raise InvalidWork if its source is refused."""
    (found,) = parse([job], memory_bytes=memory_bytes, cpu_s=cpu_s)
    if isinstance(found, Refused):
        raise InvalidWork(f"{found.name}: {found.why}")
    return found


def _run(jobs: Sequence[SourceFile], memory_bytes: int, cpu_s: int) -> list[Any | Refused]:
    """Return at least one answer: those that came, then one for the job that broke the child."""
    files: list[BinaryIO] = []
    try:
        told: list[dict[str, Any]] = []
        for job in jobs:
            file, why = _opened(job.source)
            if file is None:
                # Run the jobs before it first; this one then starts the next batch.
                return (
                    [Refused(job.name, why)]
                    if not told
                    else _run(jobs[: len(told)], memory_bytes, cpu_s)
                )
            files.append(file)
            told.append(
                {
                    "fd": file.fileno(),
                    "name": Path(job.name).name,
                    "encoding": job.encoding,
                }
            )
        lines, end = _child(told, [file.fileno() for file in files], memory_bytes, cpu_s)
    finally:
        for file in files:
            file.close()
    answers: list[Any | Refused] = []
    for job, line in zip(jobs, lines, strict=False):
        answer = json.loads(line)
        if "missing" in answer:
            raise ConfigError(f"{answer['missing']} is not installed: {INSTALL}")
        answers.append(
            Refused(job.name, answer["refused"]) if "refused" in answer else answer["done"]
        )
    if len(answers) < len(jobs):
        answers.append(Refused(jobs[len(answers)].name, end))
    return answers


def _opened(source: Path | bytes) -> tuple[BinaryIO | None, str]:
    if isinstance(source, bytes):
        made = tempfile.TemporaryFile()  # noqa: SIM115
        made.write(source)
        made.seek(0)
        return made, ""
    size = source.stat().st_size
    if size > MAX_SOURCE_BYTES:
        return None, (
            f"it has {size} bytes, at most {MAX_SOURCE_BYTES} are read: take pictures out, or "
            f"split it"
        )
    if not size:
        return None, "it is empty"
    return source.open("rb"), ""


def _child(
    jobs: list[dict[str, Any]], descriptors: list[int], memory_bytes: int, cpu_s: int
) -> tuple[list[bytes], str]:
    """Return the lines that the child wrote and, if they are too few, how it ended."""
    given = json.dumps({"jobs": jobs, "memory_bytes": memory_bytes, "cpu_s": cpu_s})
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # -P: modules in the current folder cannot be imported.
    command = [sys.executable, "-P", "-m", "viz.creator.intake.worker", given]
    with subprocess.Popen(
        tied(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        env=environment,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        late = threading.Timer(TIME_S, child.kill)
        # An interrupt at any line here must not leave a thread that the interpreter waits for.
        late.daemon = True
        told: list[bytes] = []
        reader = threading.Thread(target=lambda: told.append(_tail(child.stderr)), daemon=True)
        try:
            late.start()
            reader.start()
            said = child.stdout.read(_MAX_ANSWER_BYTES + 1)
            if len(said) > _MAX_ANSWER_BYTES:
                child.kill()
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            timed_out = not late.is_alive()
            late.cancel()
        reader.join(timeout=5)
    *lines, _half = said.split(b"\n")
    return lines, _ending(code, told[0] if told else b"", timed_out=timed_out)


def _tail(stream: Any) -> bytes:
    """Return the last bytes of a stream of any length."""
    last = b""
    while more := stream.read(4096):
        last = (last + more)[-4096:]
    return last


def _ending(code: int, told: bytes, *, timed_out: bool) -> str:
    if timed_out or code == -signal.SIGXCPU:
        return "it took too long to read: split it, or export it as plain text"
    if b"MemoryError" in told or code in (-6, -9):
        return "it needs more memory than parsing may have: split it, or take pictures out"
    last = told.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
    return (
        f"the program that reads it broke down (exit {code}{f', {last}' if last else ''}): save "
        f"the "
        "file again from the program that made it, or export plain text"
    )
