"""The check of a GPU, as far as a CPU can run it: each part ends, and its exit status is true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu_parts import numbers, serving

from viz.basemodel import nf4


def _check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu_check.py", "--threads", "1", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=environment
    )


def test_its_parts_hold_on_a_cpu() -> None:
    """Material, steps, memory beside the estimate, gradients and their bounds: tiny bases."""
    done = _check("--device", "cpu", "--small", "--parts", "gradients,8B")
    assert done.returncode == 0, done.stdout
    for said in ("gradients  held", "8B         held", "hostEstimateMiB", "everything held"):
        assert said in done.stdout


def test_it_fails_where_there_is_no_device() -> None:
    """Nobody takes a check that did not run for one that held."""
    done = _check("--device", "cuda")
    assert done.returncode == 2 and "finds no CUDA device" in done.stdout


def test_other_weights_on_a_device_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that dequantises to other values does not train what is served."""
    figures, findings = numbers.weights_part("cpu", small=True)
    assert findings == [] and set(figures["values that differ"].values()) == {0}
    honest, calls = nf4.dequantise, 0

    def other(packed: torch.Tensor, state: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return honest(packed, state) + (calls % 2) * 0.001

    monkeypatch.setattr(numbers, "dequantise", other)
    assert "values of a 64x160 weight differ" in numbers.weights_part("cpu", small=True)[1][0]


def test_gradients_that_differ_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = iter([1.0, 1.0, 1.0, 1.3])

    def gradients(*_: Any) -> tuple[float, torch.Tensor]:
        return 5.0, torch.full((4,), next(computed))

    monkeypatch.setattr(numbers, "_gradients", gradients)
    _, findings = numbers.gradients_part("tiny", tmp_path, "cpu", 1)
    assert len(findings) == 1 and findings[0].startswith("bfloat16, recomputed: gradients differ")


def test_without_vllm_it_says_so(tmp_path: Path) -> None:
    figures, findings = serving.upstream_part("cuda", sys.executable, tmp_path)
    assert figures["vLLM"].startswith("not run") and findings == []
