"""Parse a creator's files in a process that can do nothing else: the child of ``sandbox``.

``python -m viz.creator.intake.worker JOBS``: a JSON list of jobs, each with the number of an open
file. The process writes one JSON line per job to standard output. Before any parser is imported, it
gives up its rights: it can write no file, open no socket and start no program, and the kernel
limits its memory, time and open files. Invariant: whatever a file makes a parser do, the parent
only sees a missing line.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import sys
from collections import Counter
from typing import Any, BinaryIO, Final, assert_never

from viz.errors import InvalidWork

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_BARRED: Final = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "shutil.rmtree",
)


class Barred(OSError):
    """A parser tried to do something that parsing does not need."""


def give_up(memory_bytes: int, cpu_s: int) -> None:
    """Limit this process and take its network away.

    The limits always apply. A network namespace of its own is used where the kernel lets users make
    one, and silently skipped elsewhere; the audit hook blocks sockets of Python code everywhere.
    """
    # The soft limit sends SIGXCPU, which the parent recognises; the hard limit kills.
    for limit, value, last in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 2),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 128, 128),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = last if hard == resource.RLIM_INFINITY else min(last, hard)
        resource.setrlimit(limit, (min(value, bound), bound))
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)

    def watch(event: str, _arguments: Any) -> None:
        if event in _BARRED:
            raise Barred(f"{event} while a file is parsed")

    sys.addaudithook(watch)


def main() -> None:
    """Do the jobs of the command line, one after another."""
    given = json.loads(sys.argv[1])
    give_up(given["memory_bytes"], given["cpu_s"])
    for job in given["jobs"]:
        answer = _answer(job)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        with os.fdopen(job["fd"], "rb") as file:
            return {"done": _convert(file, job)}
    except InvalidWork as error:
        return {"refused": str(error)}
    except ImportError as error:
        return {"missing": error.name or str(error)}
    except MemoryError:
        return {"refused": _TOO_LARGE}
    except Exception as error:  # noqa: BLE001 - whatever a parser raises refuses the file
        return {"refused": f"it could not be read ({type(error).__name__}: {str(error)[:200]})"}


_TOO_LARGE: Final = "it needs more memory than parsing may have: split it, or take pictures out"


def _convert(file: BinaryIO, job: dict[str, Any]) -> dict[str, Any]:
    from viz.creator.intake import documents
    from viz.creator.intake.chats import chats_file
    from viz.creator.intake.clean import as_paragraphs, cleaned
    from viz.creator.intake.kinds import kind_of
    from viz.creator.intake.pdf import pdf_file
    from viz.creator.intake.signals import wrapped_signals
    from viz.domain.work import MAX_WORK_BYTES

    raw = file.read()
    kind = kind_of(job["name"], raw)
    # Pass a copy of the bytes: a library would look for related files by the descriptor's number.
    book = io.BytesIO(raw)
    encoding = job["encoding"]
    match kind:
        case "docx":
            found = documents.embedded(documents.docx_file(book), raw)
        case "epub":
            found = documents.embedded(documents.epub_file(book), raw)
        case "pdf":
            found = documents.embedded(pdf_file(book), raw)
        case "chats":
            found = chats_file(raw, encoding)
        case "markdown":
            found = documents.markdown_file(raw, encoding)
        case "html":
            found = documents.html_file(raw, encoding)
        case "text":
            found = documents.text_file(raw, encoding)
        case other:
            assert_never(other)
    if kind in ("markdown", "html", "text"):
        found.opt_outs += wrapped_signals(raw)
    if found.kind == "text":
        counts: Counter[str] = Counter()
        found.text = as_paragraphs(cleaned(found.text, counts))
        for name, count in counts.most_common():
            found.note(f"{count} {name}")
        if not found.text.strip():
            raise InvalidWork("it has no text")
    found.title = _one_line(found.title)
    found.language = _one_line(found.language)
    found.creators = [name for each in found.creators if (name := _one_line(each))]
    size = len(found.text.encode())
    if size > MAX_WORK_BYTES:
        raise InvalidWork(
            f"it gives {size} bytes of text, and a work has at most {MAX_WORK_BYTES}: split it "
            f"into "
            "several works"
        )
    return {"source_kind": kind, **found.to_json()}


def _one_line(text: str) -> str:
    """Return what a source says of itself as one line of ordinary text."""
    from viz.creator.intake.clean import cleaned

    return " ".join(cleaned(text, Counter()).split())[:200]


if __name__ == "__main__":
    main()
