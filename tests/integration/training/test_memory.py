"""What the estimate says that a layer keeps is what autograd keeps, to a few percent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.families import family_base
from tests.integration.training.conftest import SETTINGS

from viz.training import memory
from viz.training.packing import TokenRow, pack, shared_beginning
from viz.training.qlora import build_model, pack_logits

# Long enough that what does not grow with the tokens is small beside the rest.
ROWS = [
    TokenRow((*range(3, 27), *(5 + (13 * at + 31 * row) % 240 for at in range(96))), (40, 41))
    for row in range(6)
]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_kept_activations_are_counted(tmp_path: Path, name: str, compute: Any) -> None:
    """In bfloat16 this is what a GPU computes, so a CPU can hold that part of its estimate."""
    base = family_base(tmp_path, name, quantised=True)
    settings = replace(SETTINGS, weights="nf4", compute=compute, trained_layers=0.5)
    model = build_model(base, settings)
    parameters = {each.data_ptr() for each in model.parameters()}
    held: dict[int, int] = {}
    tensors: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)
        return tensor

    dtype = torch.float32 if compute == "float32" else torch.bfloat16
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pack_logits(model, pack(ROWS, dtype))
    common = shared_beginning(ROWS)
    longest = len(ROWS[0].ids) - common
    size = memory.PackSize(len(ROWS), common + len(ROWS) * longest, longest, common, 12)
    counted = memory.kept_activations(base.shape, settings, size)
    assert counted == pytest.approx(sum(held.values()), rel=0.15)
