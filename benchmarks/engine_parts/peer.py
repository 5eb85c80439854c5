"""Peers as child processes: one line of JSON asks, one answers; stopped while others run.

``Peer`` is this side, ``serve`` the child's. What the child's libraries print goes to its log.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Handler = Callable[[dict[str, Any]], Mapping[str, Any]]


class PeerFailed(Exception):
    """The peer cannot be measured here; the message says why."""


class Peer:
    """A running peer, asleep until it is asked something."""

    def __init__(
        self, python: Path, module: str, arguments: list[str], log: Path, **environment: str
    ) -> None:
        self.log = log
        # The library under test brings its own defaults: none of ours are handed on.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_"))}
        with log.open("wb") as errors:
            self._child = subprocess.Popen(
                [str(python), "-m", f"benchmarks.engine_parts.{module}", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**inherited, **environment},
                start_new_session=True,
            )
        self.about = self._answer(400)
        self._signal(signal.SIGSTOP)

    def ask(self, do: str, timeout_s: float = 240, **fields: Any) -> dict[str, Any]:
        """Wake the peer, let it do something, and put it to sleep. Raises PeerFailed."""
        self._signal(signal.SIGCONT)
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self._child.stdin.flush()
        except OSError as error:
            raise PeerFailed(f"it ended: {self._last_words()}") from error
        answer = self._answer(timeout_s)
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        self._child.wait(30)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._child.stdout is not None
        ends = time.monotonic() + timeout_s
        ready = select.select([self._child.stdout], [], [], max(0.0, ends - time.monotonic()))[0]
        line = self._child.stdout.readline() if ready else b""
        if not line:
            why = self._last_words() if ready else f"no answer in {timeout_s:.0f} s"
            self.close()
            raise PeerFailed(why)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "no word"

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return


def serve(about: Mapping[str, Any], handlers: Mapping[str, Handler]) -> None:
    """Answer requests until standard input ends; ``about`` is the first line."""
    for line in _lines(about):
        asked = json.loads(line)
        try:
            answer = dict(handlers[asked.pop("do")](asked))
        except Exception as error:  # noqa: BLE001 - told to the table, which goes on
            answer = {"error": f"{type(error).__name__}: {error}"[:400]}
        _OUT.write(json.dumps(answer) + "\n")
        _OUT.flush()


def quiet_stdout() -> None:
    """Send what libraries print to the log; call before importing them."""
    global _OUT  # noqa: PLW0603 - one process, one pipe
    _OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def _lines(about: Mapping[str, Any]) -> Any:
    _OUT.write(json.dumps(dict(about)) + "\n")
    _OUT.flush()
    return sys.stdin


def rate_of(arrivals: list[tuple[float, int]], streams: int) -> float:
    """Return tokens/s from (time, tokens made by then): from all having begun to the end."""
    began = next(place for place, (_, made) in enumerate(arrivals) if made >= streams)
    (start, before), (end, after) = arrivals[began], arrivals[-1]
    return (after - before) / (end - start)


def faster_dtype(torch: Any) -> str:
    """Return "float32" or "bfloat16", whichever this torch multiplies faster at eight rows."""
    taken: dict[str, float] = {}
    for name in ("float32", "bfloat16") * 5:
        dtype = getattr(torch, name)
        weight, x = torch.randn(3072, 576).to(dtype), torch.randn(8, 576).to(dtype)
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        taken[name] = min(taken.get(name, 9.0), time.perf_counter() - began)
    return min(taken, key=taken.__getitem__)


_OUT = sys.stdout
