"""Define the upstream engine's settings as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

Arithmetic = Literal["float32", "bfloat16", "float16"]
# Two computations of the same model differ by at most this in their log-probabilities (mean, in
# nats). A server beyond it computes another model. Measured in docs/engine-log.md.
MARGINS: Final[dict[Arithmetic, float]] = {"float32": 0.005, "bfloat16": 0.12, "float16": 0.02}


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The servers of one base model, and how they are used.

    ``folder`` is where this node writes adapters, ``server_folder`` the path of the same folder at
    the servers. ``max_adapters`` and ``max_rank`` are the servers' own limits (vLLM:
    --max-cpu-loras, --max-lora-rank). ``timeout_s`` is the longest silence of a server.
    ``return_s`` is how long a request waits after a server's fault, for another server or for the
    same one to return. ``ahead_tokens`` is how far a server may be ahead of what is paid and read
    before its request is cut; ``segment_tokens`` how many tokens one request asks for,
    ``seeded_segment_tokens`` the same if the buyer gave a seed.
    """

    urls: tuple[str, ...]
    folder: Path
    server_folder: str = ""
    arithmetic: Arithmetic = "bfloat16"
    max_streams: int = 256
    max_waiting: int = 256
    context_tokens: int = 2_048
    max_adapters: int = 32
    max_rank: int = 16
    timeout_s: float = 60.0
    canary_interval_s: float = 600.0
    api_key: str = field(default="", repr=False)
    watch_s: float = 5.0
    return_s: float = 10.0
    buffer_tokens: int = 48
    ahead_tokens: int = 16
    segment_tokens: int = 256
    seeded_segment_tokens: int = 64

    @property
    def margin(self) -> float:
        """Return the largest mean difference, in nats, that counts as agreement."""
        return MARGINS[self.arithmetic]
