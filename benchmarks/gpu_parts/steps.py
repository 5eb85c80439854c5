"""Training steps on a random base: seconds a step, and the peak of memory beside the estimate."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_parts.material import random_base, random_rows, size_of

from viz.training.environment import compute_dtype, make_deterministic
from viz.training.limits import peak_bytes
from viz.training.loop import TrainingLoop
from viz.training.memory import MIB, memory_of
from viz.training.qlora import adapter_tensors, build_model
from viz.training.run import TrainingSettings


def settings_for(device: str, *, threads: int, recompute: bool) -> TrainingSettings:
    """Return what a run on ``device`` takes by default."""
    settings = TrainingSettings(
        threads=threads, weights="nf4", device=device, recompute=recompute, trained_layers=0.6
    )
    return replace(settings, optimizer="paged_adamw") if device.startswith("cuda") else settings


@dataclass(frozen=True, slots=True)
class StepSize:
    """A base of material.SIZES, and ``steps`` of one pack of ``rows`` rows, ``tokens`` in all."""

    base: str
    rows: int
    tokens: int
    steps: int


def step_part(chosen: StepSize, folder: Path, settings: TrainingSettings) -> dict[str, Any]:
    """Build the base, make the steps, and return figures."""
    make_deterministic(settings)
    base, rows = random_base(chosen.base, folder), chosen.rows
    length = chosen.tokens // rows
    learned = random_rows(base.shape.vocabulary, rows, length, min(16, length // 4))
    estimate = memory_of(base.shape, base.policy, settings, size_of(learned))
    began = time.monotonic()
    model = build_model(base, settings)
    loaded_s, loaded = time.monotonic() - began, peak_bytes()
    settings = replace(settings, steps=chosen.steps, rows_per_step=rows, warmup_steps=0)
    loop = TrainingLoop(model, learned, settings, compute_dtype(settings), identity="check")
    seconds: list[float] = []
    before = time.monotonic()

    def after_step(*_: Any) -> None:
        nonlocal before
        seconds.append(time.monotonic() - before)
        before = time.monotonic()

    loop.run(after_step=after_step, after_evaluation=lambda _: None)
    figures = {
        "base": chosen.base,
        "packTokens": size_of(learned).tokens,
        "learned": size_of(learned).learned,
        "recompute": settings.recompute,
        "loadSeconds": round(loaded_s, 1),
        "secondsAStep": round(sorted(seconds)[len(seconds) // 2], 3),
        "losses": [round(loss, 4) for loss in loop.progress.losses],
        "hostMiB": peak_bytes() // MIB,
        "hostAfterLoadingMiB": loaded // MIB,
        "hostEstimateMiB": estimate.host_bytes // MIB,
        "estimate": {
            "host": {k: v // MIB for k, v in estimate.host.items()},
            "device": {k: v // MIB for k, v in estimate.device.items()},
        },
        "sumOfAdapter": sum(float(t.double().sum()) for t in adapter_tensors(model).values()),
    }
    if settings.device.startswith("cuda"):
        figures |= _device_figures(settings.device, estimate.device_bytes)
    return figures


def _device_figures(device: str, estimate: int) -> dict[str, Any]:
    """Return the device's peak: what the allocator took, and what is in use beyond it."""
    reserved = torch.cuda.max_memory_reserved(device)
    free, total = torch.cuda.mem_get_info(device)
    beyond = max(0, total - free - torch.cuda.memory_reserved(device))
    return {
        "deviceMiB": (reserved + beyond) // MIB,
        "deviceAllocatedMiB": torch.cuda.max_memory_allocated(device) // MIB,
        "deviceEstimateMiB": estimate // MIB,
    }
