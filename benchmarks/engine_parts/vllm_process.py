"""A real vLLM server on some processors: start it, wait for it, kill it."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from benchmarks.engine_parts.environments import make

from viz.child_process import tied
from viz.engine.upstream.settings import Arithmetic
from viz.local_socket import free_port

# Starting takes a minute on a quiet machine, most of it imports.
START_S = 420.0
CONTEXT_TOKENS = 512
MAX_ADAPTERS = 4


class VllmNotStarted(Exception):
    """The server ended, or did not answer in time; the text has its last words."""


@dataclass(frozen=True, slots=True)
class VllmKind:
    """Which vLLM, and what it computes in; without ``python`` the one for CPUs, made if needed."""

    python: Path | None = None
    dtype: Arithmetic = "float32"


class VllmProcess:
    """One server over an exported checkpoint; ``start`` again after ``kill`` keeps the port."""

    def __init__(
        self,
        directory: Path,
        log: Path,
        processors: Sequence[int],
        *,
        context_tokens: int = CONTEXT_TOKENS,
        streams: int = 8,
        max_loras: int = 2,
        max_adapters: int = MAX_ADAPTERS,
        max_rank: int = 64,
        kind: VllmKind = VllmKind(),
    ) -> None:
        self._directory, self._log, self._kind = directory, log, kind
        self._processors = ",".join(map(str, processors))
        self._flags = {
            "--max-model-len": context_tokens,
            "--max-num-seqs": streams,
            "--max-loras": max_loras,
            "--max-cpu-loras": max_adapters,
            "--max-lora-rank": max_rank,
        }
        self._port = free_port()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the process; it answers after ``wait``."""
        command = [
            str(self._kind.python or make("vllm")),
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self._directory), "--served-model-name", "base"),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--dtype", self._kind.dtype, "--enforce-eager", "--enable-lora"),
            *(str(word) for pair in self._flags.items() for word in pair),
        ]
        # The library under test brings its own defaults: none of ours are handed on.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "PYTHON"))}
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                tied(command),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=inherited
                | {
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
                    "VLLM_CPU_KVCACHE_SPACE": "1",
                    "VLLM_CPU_OMP_THREADS_BIND": self._processors,
                    "VLLM_NO_USAGE_STATS": "1",
                    "HF_HUB_OFFLINE": "1",
                },
            )

    def wait(self) -> None:
        """Return when the server answers; raise VllmNotStarted if it ends or takes too long."""
        assert self._child is not None
        ends = time.monotonic() + START_S
        while time.monotonic() < ends and self._child.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (URLError, OSError):
                time.sleep(0.5)
        last_words = self._log.read_text(errors="replace")[-2000:]
        raise VllmNotStarted(f"vLLM did not start: {last_words}")

    def kill(self) -> None:
        """End the server and its children at once, as a machine that goes away."""
        if self._child is not None:
            os.killpg(self._child.pid, 9)
            self._child.wait(30)
            self._child = None
