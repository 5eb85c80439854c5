"""Read what this machine's processor is and which instructions it has.

Libraries choose their kernels by it, and so the order of sums. Linux tells it, on x86 and ARM.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processor:
    """The maker, the model's name (empty if not told) and all flags of one processor."""

    vendor: str
    model: str
    flags: frozenset[str]


def read_processor() -> Processor:
    """Return the first processor that the kernel lists; no flags where it lists none."""
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", errors="replace").splitlines()
    except OSError:
        return Processor(platform.processor() or "unknown", "", frozenset())
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    flags = found.get("flags") or found.get("Features") or ""
    vendor = found.get("vendor_id") or found.get("CPU implementer") or "unknown"
    return Processor(vendor, found.get("model name", ""), frozenset(flags.split()))


def multiplies_bf16(flags: Collection[str]) -> bool:
    """Return whether a processor with these flags multiplies bfloat16 in hardware."""
    return "avx512_bf16" in flags or "amx_bf16" in flags
