"""Define the engine's settings as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine's settings; the defaults suit the packaged model on a small machine.

    ``grace_s`` is how long a paused sequence keeps its slot while others wait for one. ``prefix_s``
    is how long an ended one's slot is kept for a next request that begins as it did.
    ``memory_bytes`` bounds weights, caches and adapters together; 0 means 60 % of the free memory.
    ``buffer_tokens`` is how far a sequence runs ahead of its reader. ``threads`` 0 means all
    processors that this process may use. ``compile`` builds the engine's own forward pass if there
    is a C++ compiler; ``compute`` "native" requires it. ``guesses``: guess next tokens from those
    so far, where that pays.
    """

    max_streams: int = 32
    max_waiting: int = 256
    context_tokens: int = 2_048
    resident_adapters: int = 256
    threads: int = 0
    compute: Literal["auto", "float32", "bfloat16", "native"] = "auto"
    compile: bool = True
    prefill_tokens: int = 128
    buffer_tokens: int = 64
    grace_s: float = 10.0
    prefix_s: float = 600.0
    memory_bytes: int = 0
    guesses: bool = True
