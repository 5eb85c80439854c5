"""What a device computes, against what the CPU computes: weights, gradients, repetition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_parts.material import random_base, random_rows
from benchmarks.gpu_parts.steps import StepSize, settings_for, step_part

from viz.basemodel.nf4 import dequantise, quantise
from viz.basemodel.policy import DEFAULT_POLICY
from viz.training.environment import compute_dtype, make_deterministic
from viz.training.packing import pack
from viz.training.qlora import adapter_tensors, build_model, pack_loss
from viz.training.run import TrainingSettings

Result = tuple[dict[str, Any], list[str]]
# Relative differences of gradients, over the whole adapter: in float32 only the order of sums
# differs; in bfloat16 the products are rounded to 8 bits.
_FLOAT32 = 1e-3
_BFLOAT16 = 0.1


def weights_part(device: str, *, small: bool) -> Result:
    """Dequantise on the device what was quantised on the host; the values must be the host's."""
    sizes = [(64, 160), (96, 64)] if small else [(576, 1_536), (4_096, 4_096), (14_336, 4_096)]
    generator = torch.Generator().manual_seed(3)
    other: dict[str, int] = {}
    made_there = 0
    for size in sizes:
        weight = (torch.randn(size, generator=generator) * 0.02).bfloat16()
        packed, state = quantise(weight, DEFAULT_POLICY)
        here = dequantise(packed, state)
        there_packed, _ = quantise(weight.to(device), DEFAULT_POLICY)
        made_there += int((there_packed.cpu() != packed).sum())
        state.to(device)
        there = dequantise(packed.to(device), state).cpu()
        other["x".join(map(str, size))] = int((here != there).sum())
    findings = [
        f"{count} values of a {size} weight differ" for size, count in other.items() if count
    ]
    return {
        "values that differ": other,
        # Why NF4 is made on the host; no fault.
        "bytes that differ if made on the device": made_there,
    }, findings


def _gradients(base: str, folder: Path, settings: TrainingSettings) -> tuple[float, torch.Tensor]:
    """Return the loss of one pack, and all gradients of the adapter in float32 on the host."""
    made = random_base(base, folder)
    rows = random_rows(made.shape.vocabulary, 8, 48, 12)
    model = build_model(made, settings)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in sorted(adapter_tensors(model).items()):
            drawn = torch.randn(tensor.shape, generator=generator) * 0.02
            tensor.copy_(drawn)
    loss = pack_loss(model, pack(rows, compute_dtype(settings), settings.device))
    loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None]
    flat = torch.cat([each.detach().float().cpu().reshape(-1) for each in found])
    return float(loss.detach()), flat


def gradients_part(base: str, folder: Path, device: str, threads: int) -> Result:
    """Compare a pack's loss and gradients on the device with float32 on the CPU."""
    settings = settings_for("cpu", threads=threads, recompute=False)
    make_deterministic(settings)
    loss, wanted = _gradients(base, folder, settings)
    figures: dict[str, Any] = {"loss on the CPU": round(loss, 4)}
    findings = []
    there = settings_for(device, threads=threads, recompute=False)
    for name, changed, most in (
        ("float32", replace(there, compute="float32"), _FLOAT32),
        ("float32, recomputed", replace(there, compute="float32", recompute=True), _FLOAT32),
        ("bfloat16, recomputed", replace(there, compute="bfloat16", recompute=True), _BFLOAT16),
    ):
        found, gradients = _gradients(base, folder, changed)
        off = float((gradients - wanted).norm() / wanted.norm())
        figures[f"{name}: loss, relative difference of gradients"] = f"{found:.4f}, {off:.2e}"
        if not off <= most or not abs(found - loss) <= most * abs(loss):
            findings.append(f"{name}: gradients differ by {off:.2e}, at most {most:g} is expected")
    return figures, findings


def repeat_part(base: str, folder: Path, device: str, threads: int) -> Result:
    """Make the same steps twice: the sums over the adapter must be equal to the last bit."""
    settings = settings_for(device, threads=threads, recompute=True)
    size = StepSize(base, 8, 384, 3)
    first, second = (step_part(size, folder, settings)["sumOfAdapter"] for _ in range(2))
    findings = [] if first == second else ["two equal runs gave different adapters"]
    return {"sums of the adapters": f"{first!r}, {second!r}"}, findings
