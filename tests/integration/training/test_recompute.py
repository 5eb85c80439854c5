"""Computing activations twice changes memory and time, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.families import family_base
from tests.integration.training.conftest import SETTINGS
from tests.integration.training.test_families import ROWS

from viz.basemodel.source import LoadedBase
from viz.training import recompute
from viz.training.evaluate import bare_base, generate
from viz.training.packing import TokenRow, pack
from viz.training.qlora import adapter_tensors, build_model, pack_loss
from viz.training.replay import with_likely_tokens

NF4 = replace(SETTINGS, weights="nf4", trained_layers=0.5)


def _model(base: LoadedBase, *, twice: bool) -> Any:
    """Return a model whose adapter is not the zero function."""
    model = build_model(base, replace(NF4, recompute=twice))
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor.copy_(torch.randn_like(tensor) * 0.1)
    return model


def _step(model: Any, rows: list[TokenRow]) -> tuple[float, dict[str, torch.Tensor]]:
    loss = pack_loss(model, pack(rows, torch.float32))
    loss.backward()  # type: ignore[no-untyped-call]
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3", "gemma2", "gemma3"])
def test_losses_and_gradients_are_the_same(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row attention, windows, caps and the head in slices, with rows that follow the base."""
    monkeypatch.setattr(recompute, "SLICE", 7)
    base = family_base(tmp_path, name, quantised=True)
    plain, twice = _model(base, twice=False), _model(base, twice=True)
    with bare_base(plain):
        rows = [*ROWS, *with_likely_tokens(plain, ROWS[:1], torch.float32, "cpu")]
    loss, gradients = _step(plain, rows)
    again, others = _step(twice, rows)
    assert again == pytest.approx(loss, rel=1e-5)
    assert gradients.keys() == others.keys()
    for module, gradient in gradients.items():
        assert (others[module] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), module


def test_less_is_kept_for_the_backward_pass(tiny: LoadedBase) -> None:
    """What the setting is for: a layer keeps its input alone."""
    kept = []
    for twice in (False, True):
        model, bytes_kept = _model(tiny, twice=twice), 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            pack_loss(model, pack(ROWS, torch.float32))
        kept.append(bytes_kept)
    assert kept[1] < kept[0] / 4


def test_answers_keep_their_cache(tiny: LoadedBase) -> None:
    """Evaluation asks a model in train mode: transformers' own switch would drop its cache."""
    prompts = [row.ids[:20] for row in ROWS]
    plain, twice = (
        generate(_model(tiny, twice=twice), prompts, max_tokens=6, end_ids=())
        for twice in (False, True)
    )
    assert plain == twice
