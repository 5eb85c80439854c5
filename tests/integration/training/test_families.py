"""Every family trains: a pack's loss and gradients are those of transformers' own step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.families import FAMILIES, family_base, make_family
from tests.fakes.sentencepiece_tokenizer import write_sentencepiece
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase, load_base
from viz.training.evaluate import generate
from viz.training.packing import TokenRow, pack, shared_beginning
from viz.training.process import TrainingProcess
from viz.training.qlora import adapter_tensors, build_model, pack_loss

_OPENING = tuple(3 + 7 * at % 200 for at in range(20))
# Rows behind one opening, longer than the windows of the tiny models.
ROWS = [
    TokenRow(
        (*_OPENING, *(5 + (13 * at + 31 * row) % 240 for at in range(16 + 9 * row)), 2),
        tuple(range(len(_OPENING) + 4, len(_OPENING) + 17 + 9 * row)),
    )
    for row in range(3)
]


def _plain(base: LoadedBase) -> Any:
    """Return PEFT over transformers' own eager attention, with the weights that are served."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(base.directory), dtype=torch.float32, attn_implementation="eager"
    )
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in serving_weights(base).items():
            own[name].copy_(weight)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=SETTINGS.rank, lora_alpha=SETTINGS.alpha, target_modules=targets)
    return get_peft_model(model, config)


def _stir(model: Any, tensors: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Give the adapter values, or those of ``tensors``; return them."""
    torch.manual_seed(5)
    own = adapter_tensors(model)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name] if tensors else torch.randn_like(tensor) * 0.1)
    return own


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    return {
        name.replace(".default.weight", ".weight"): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("weights", ["dequantised", "nf4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_is_transformers_own(tmp_path: Path, name: str, weights: Any) -> None:
    """The same summed loss and gradients as rows one by one with a causal mask and labels.

    Both compute in float32: sums in another order differ by about 1e-5 of the largest gradient.
    """
    base = family_base(tmp_path, name, quantised=True)
    assert shared_beginning(ROWS) == len(_OPENING)
    model = build_model(base, replace(SETTINGS, weights=weights))
    given = _stir(model)
    loss = pack_loss(model, pack(ROWS, torch.float32))
    loss.backward()  # type: ignore[no-untyped-call]
    ours = _gradients(model)

    plain = _plain(base)
    _stir(plain, given)
    total = 0.0
    for row in ROWS:
        labels = torch.full((1, len(row.ids)), -100)
        labels[0, list(row.supervised)] = torch.tensor([row.ids[p] for p in row.supervised])
        summed = plain(input_ids=torch.tensor([row.ids]), labels=labels).loss * len(row.supervised)
        summed.backward()
        total += float(summed.detach())
    theirs = _gradients(plain)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)
    assert ours.keys() == theirs.keys() and len(ours) == 2 * len(list(base.shape.modules()))
    for module, gradient in theirs.items():
        assert (ours[module] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), module


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_is_transformers_own(tmp_path: Path, name: str) -> None:
    """Evaluation answers as the model does: batched, padded, beyond the window."""
    base = family_base(tmp_path, name, quantised=True)
    model = build_model(base, SETTINGS)
    given = _stir(model)
    plain = _plain(base)
    _stir(plain, given)
    plain.eval()
    prompts = [row.ids[: 10 + 14 * place] for place, row in enumerate(ROWS)]
    found = generate(model, prompts, max_tokens=6, end_ids=())
    for prompt, made in zip(prompts, found, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for token in made:
                row = plain(input_ids=torch.tensor([ids])).logits[0, -1]
                # Equal, or as good to float32: another order of sums may turn a tie.
                assert row.max() - row[token] <= 1e-3 * row.abs().max()
                ids.append(token)


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
async def test_a_whole_run_on_a_sentencepiece_base(
    make_run: Any, tmp_path: Path, name: str
) -> None:
    """The worker's whole way (rows, replay, steps, examination) with a tokenizer of the other kind.

    The loss falls, and the engine reads the file.
    """
    directory = make_family(tmp_path / name, name, vocab_size=1_200, eos_token_id=4)
    write_sentencepiece(directory)
    run = replace(make_run(), base_model=str(directory))
    events = [event async for event in TrainingProcess(run, tmp_path / "run").events()]
    metrics = events[-1].values["metrics"]
    assert metrics["heldOut"]["after"]["loss"] < metrics["heldOut"]["before"]["loss"]
    base = load_base(directory, cache_dir=run.cache_dir)
    assert base.tokenizer.parts_at_spaces
    adapter = read_adapter(tmp_path / "run/adapter.safetensors", base.shape, base.digest)
    assert adapter.header.rank == SETTINGS.rank
