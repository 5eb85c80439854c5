"""The model that trains is filled weight by weight, and is transformers' own model of the base."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.families import FAMILIES, family_base
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.nf4 import quantise
from viz.basemodel.source import LoadedBase
from viz.training.base_weights import load_model


class _Watched(Mapping[str, torch.Tensor]):
    """Weights that remember which of them somebody still holds when the next is asked for."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._weights, self._given = weights, list[Any]()
        self.asked: list[str] = []
        self.held: list[str] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        self.held += [given for given, alive in self._given if alive() is not None]
        tensor = self._weights[name].clone()
        self.asked.append(name)
        self._given.append((name, weakref.ref(tensor)))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_not_quantised_is_transformers_own(tmp_path: Path, name: str) -> None:
    """Embeddings, norms, biases and computed buffers, in the type that a GPU computes in.

    A buffer left on the meta device, or made in another type, would change every position.
    """
    from transformers import AutoModelForCausalLM

    base = family_base(tmp_path, name, quantised=True)
    model = load_model(base, replace(SETTINGS, weights="nf4"), torch.bfloat16)
    theirs: Any = AutoModelForCausalLM.from_pretrained(str(base.directory), dtype=torch.bfloat16)
    ours = dict(model.named_buffers()) | dict(model.named_parameters())
    packed = {f"{module}.weight" for module, _ in base.shape.modules()}
    names = {n for n, _ in (*theirs.named_buffers(), *theirs.named_parameters())}
    assert names == set(ours)
    for place, tensor in (*theirs.named_buffers(), *theirs.named_parameters()):
        if place not in packed:
            assert ours[place].dtype == tensor.dtype
            assert torch.equal(ours[place], tensor), place


def test_one_weight_at_a_time_is_in_memory_unpacked(
    tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a base of eight billion needs while it is loaded: packed weights, and one more."""
    watched = _Watched(tiny.weights())
    monkeypatch.setattr(LoadedBase, "weights", lambda self: watched)
    model = load_model(tiny, replace(SETTINGS, weights="nf4"), torch.float32)
    assert sorted(watched.asked) == sorted(tiny.shape.tensors())
    assert watched.held == []
    assert all(each.device.type == "cpu" for each in model.parameters())


def test_packed_weights_are_those_that_are_served(tiny: LoadedBase) -> None:
    """The bytes and statistics of the function that makes the served weights."""
    model = load_model(tiny, replace(SETTINGS, weights="nf4"), torch.float32)
    for module, _ in tiny.shape.modules():
        layer = model.get_submodule(module)
        packed, state = quantise(tiny.weights()[f"{module}.weight"], tiny.policy)
        assert torch.equal(layer.weight.data, packed)
        assert torch.equal(layer.weight.quant_state.absmax, state.absmax)
        assert layer.weight.quant_state.offset == state.offset
