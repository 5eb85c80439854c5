"""The model that trains: serving's function, right gradients, packs that change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase
from viz.domain.work import parse_work
from viz.training.dataset import rows_of
from viz.training.evaluate import bare_base, generate, held_out_loss
from viz.training.packing import TokenRow, pack, shared_beginning, tokenise
from viz.training.qlora import adapter_tensors, build_model, pack_logits, pack_loss
from viz.training.replay import with_likely_tokens

PROSE = b"# Guide\n\n## How deep is it?\n\nIt is nine metres deep here. Ask Ann or Tom about it."


def _rows(base: LoadedBase) -> list[TokenRow]:
    return [tokenise(row, base.tokenizer, 512) for row in rows_of(parse_work("text", PROSE))]


def _stir(model: Any) -> None:
    """Give every B a value, so that the adapter is not the zero function."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)


def _gradients(model: Any, rows: list[TokenRow]) -> torch.Tensor:
    model.zero_grad()
    pack_loss(model, pack(rows, torch.float32)).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.requires_grad])


def test_only_assistant_turns_and_their_end_are_learned(tiny: LoadedBase) -> None:
    """A supervised token is one that the model will have to say itself."""
    row = _rows(tiny)[0]
    said = tiny.tokenizer.decode([row.ids[place] for place in row.supervised])
    assert said == "It is nine metres deep here."
    assert row.ids[row.supervised[-1]] in tiny.shape.end_ids
    assert tiny.tokenizer.decode(row.prompt).endswith("assistant\n")


def test_a_pack_computes_what_its_rows_compute_alone(tiny: LoadedBase) -> None:
    """Sharing the beginning and the sequence changes neither loss nor gradients."""
    rows = _rows(tiny)
    assert shared_beginning(rows) > 2
    model = build_model(tiny, SETTINGS)
    _stir(model)
    together = _gradients(model, rows)
    loss = float(pack_loss(model, pack(rows, torch.float32)).detach())
    alone = torch.stack([_gradients(model, [row]) for row in rows]).sum(0)
    plain = 0.0
    for row in rows:  # plain PEFT: one row, causal mask, labels
        labels = torch.full((1, len(row.ids)), -100)
        labels[0, list(row.supervised)] = torch.tensor([row.ids[p] for p in row.supervised])
        mean = model(input_ids=torch.tensor([row.ids]), labels=labels).loss
        plain += float(mean.detach()) * len(row.supervised)
    assert loss == pytest.approx(plain, rel=1e-5)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_following_the_base_costs_nothing_until_the_adapter_leaves_it(tiny: LoadedBase) -> None:
    """The loss there is the divergence from the base's own likelihoods, whatever the tokens are."""
    model = build_model(tiny, SETTINGS)
    with bare_base(model):
        rows = with_likely_tokens(model, _rows(tiny), torch.float32, "cpu")
    packed = pack(rows, torch.float32)
    assert len(packed.followed) == len(packed.labels) == sum(len(row.supervised) for row in rows)
    at_first = float(pack_loss(model, packed).detach())
    assert at_first == pytest.approx(0.0, abs=1e-3)
    with bare_base(model):
        base = pack_logits(model, packed).log_softmax(-1)
    _stir(model)
    ours = pack_logits(model, packed).log_softmax(-1)
    whole = float((base.exp() * (base - ours)).sum().detach())
    per_place = float(pack_loss(model, packed).detach()) / 2.0
    assert 0.0 < per_place <= whole * 1.01  # the rest is taken as one, which loses a little
    assert per_place == pytest.approx(whole, rel=0.5)


def test_rows_that_follow_change_nothing_for_the_rows_beside_them(tiny: LoadedBase) -> None:
    """A pack of both is the sum of its two halves."""
    model, rows = build_model(tiny, SETTINGS), _rows(tiny)
    with bare_base(model):
        followed = with_likely_tokens(model, rows[:1], torch.float32, "cpu")
    _stir(model)
    halves = [float(pack_loss(model, pack(half, torch.float32))) for half in (rows[1:], followed)]
    both = float(pack_loss(model, pack([*rows[1:], *followed], torch.float32)))
    assert both == pytest.approx(sum(halves), rel=1e-4)


def test_only_the_upper_layers_learn(tiny: LoadedBase) -> None:
    """What lies below keeps what the base knows, and costs no backward pass."""
    layers = tiny.shape.layers
    model = build_model(tiny, replace(SETTINGS, trained_layers=0.5))
    learning = {
        int(name.split(".layers.")[1].split(".")[0])
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert learning == set(range(layers - layers // 2, layers))
    assert set(adapter_tensors(model)) <= set(
        adapter_tensors(build_model(tiny, replace(SETTINGS, trained_layers=1.0)))
    )


def test_both_weight_modes_are_the_function_that_is_served(tiny: LoadedBase) -> None:
    """bitsandbytes' layers, their dequantised copy and the serving weights agree exactly."""
    kept = build_model(tiny, SETTINGS)
    packed = build_model(tiny, replace(SETTINGS, weights="nf4"))
    served = serving_weights(tiny)
    for module, _ in tiny.shape.modules():
        layer = kept.get_base_model().get_submodule(module).base_layer
        assert torch.equal(layer.weight, served[f"{module}.weight"].float())
    _stir(kept)
    _stir(packed)
    rows = _rows(tiny)
    torch.testing.assert_close(
        _gradients(kept, rows), _gradients(packed, rows), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("weights", ["nf4", "dequantised"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_evaluating_does_not_change_gradients(tiny: LoadedBase, weights: str, compute: str) -> None:
    """The trap: packing NF4 weights for inference in place made later gradients wrong (0.28)."""
    settings = replace(SETTINGS, weights=weights, compute=compute)  # type: ignore[arg-type]
    dtype = torch.float32 if compute == "float32" else torch.bfloat16
    model, rows = build_model(tiny, settings), _rows(tiny)
    _stir(model)

    def gradients() -> torch.Tensor:
        model.zero_grad()
        pack_loss(model, pack(rows, dtype)).backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.requires_grad])

    before = gradients()
    held_out_loss(model, rows, dtype, "cpu")
    generate(model, [row.prompt for row in rows], max_tokens=4, end_ids=tiny.shape.end_ids)
    with bare_base(model):
        held_out_loss(model, rows, dtype, "cpu")
    assert model.training
    assert all(module.training for module in model.modules())
    assert torch.equal(gradients(), before)


def test_batched_generation_is_each_prompt_s_own(tiny: LoadedBase) -> None:
    """Left padding does not leak: a batch says what its prompts say alone."""
    model = build_model(tiny, SETTINGS)
    _stir(model)
    prompts = [row.prompt for row in _rows(tiny)]
    prompts[1] = prompts[1][:7]
    together = generate(model, prompts, max_tokens=6, end_ids=())
    alone = [generate(model, [p], max_tokens=6, end_ids=())[0] for p in prompts]
    assert together == alone
