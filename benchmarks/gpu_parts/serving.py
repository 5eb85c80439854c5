"""The upstream engine in front of vLLM on the device, where vLLM is installed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROUNDS, _TOKENS = 3, 64
_LEAST_RATIO = 0.95


def upstream_part(device: str, python: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Compare tokens a second through the engine and directly; without vLLM say so."""
    if not device.startswith("cuda"):
        return {"vLLM": "not run: this part needs a CUDA device"}, []
    found = python or sys.executable
    probe = "import vllm, torch; assert torch.cuda.is_available(); print(vllm.__version__)"
    asked = subprocess.run([found, "-c", probe], capture_output=True, text=True, check=False)
    if asked.returncode:
        return {"vLLM": f"not run: {found} has no vLLM for CUDA (--vllm-python names one)"}, []
    from benchmarks.engine_parts.material import make_material
    from benchmarks.engine_parts.upstream import upstream_part as measure
    from benchmarks.engine_parts.vllm_process import VllmKind

    from viz.basemodel.source import models_folder

    material = make_material(models_folder(Path(".viz")), folder / "material")
    server = VllmKind(python=Path(found), dtype="bfloat16")
    ratio = asyncio.run(measure(material, _ROUNDS, _TOKENS, server))
    figures = {"vLLM": asked.stdout.strip(), "tokens/s against vLLM directly": round(ratio, 3)}
    findings = [] if ratio >= _LEAST_RATIO else [f"{ratio:.3f} of vLLM's tokens/s"]
    return figures, findings
