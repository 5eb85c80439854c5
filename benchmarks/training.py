"""A training step here against plain PEFT on bitsandbytes' own layers, interleaved in one run.

``python benchmarks/training.py [work] [--steps 3]``: same rows, same base, same adapter, same loss;
prints seconds a step, the ratio and the two losses. Needs the model stack and the packaged base.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from viz.basemodel.shape import LINEARS
from viz.basemodel.source import LoadedBase, load_base
from viz.domain.work import parse_work
from viz.training.dataset import rows_of
from viz.training.environment import compute_dtype, describe, make_deterministic
from viz.training.packing import TokenRow, pack, tokenise
from viz.training.qlora import adapter_tensors, build_model, pack_loss
from viz.training.run import Settings

DEFAULT_WORK = Path("examples/works/varn-point/work.jsonl")


def plain_peft(base: LoadedBase, settings: Settings, dtype: torch.dtype) -> Any:
    """Return PEFT's LoRA over bitsandbytes' Linear4bit as the libraries give it."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(base.directory), dtype=dtype)
    weights = base.weights()
    for module, (out, into) in base.shape.modules():
        if not base.policy.quantises(module):
            continue
        layer = bnb.nn.Linear4bit(into, out, bias=False, compute_dtype=dtype, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(
            weights[f"{module}.weight"], requires_grad=False, quant_type="nf4", module=layer
        )
        parent, _, name = module.rpartition(".")
        setattr(model.get_submodule(parent), name, layer.to("cpu"))
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=sorted({name.rpartition(".")[2] for name in LINEARS}),
    )
    torch.manual_seed(settings.seed)
    return get_peft_model(model, config).train()


def padded(rows: list[TokenRow]) -> dict[str, torch.Tensor]:
    """Return the rows as the usual right-padded batch with masked labels."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        seen[place, : len(row.ids)] = 1
        for at in row.supervised:
            labels[place, at] = row.ids[at]
    return {"input_ids": ids, "attention_mask": seen, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="?", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    chosen = parser.parse_args()
    settings = Settings()
    dtype = compute_dtype(settings)
    base = load_base(cache_dir=chosen.cache)
    kind = "dialogue" if chosen.work.suffix == ".jsonl" else "text"
    work = parse_work(kind, chosen.work.read_bytes())
    rows = [tokenise(row, base.tokenizer, settings.max_row_tokens) for row in rows_of(work)]
    rows = rows[: settings.rows_per_step]
    plain = plain_peft(base, settings, dtype)
    make_deterministic(settings)
    ours = build_model(base, settings)
    theirs = adapter_tensors(plain)
    with torch.no_grad():
        for name, tensor in adapter_tensors(ours).items():
            theirs[name].copy_(tensor)
    optimizers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-3)
        for m in (ours, plain)
    ]
    batch, one = padded(rows), pack(rows, dtype)
    took: tuple[list[float], list[float]] = ([], [])
    losses = [[], []]  # type: list[list[float]]
    for _ in range(chosen.steps + 1):
        for place, deterministic_fill in ((0, False), (1, True)):
            # The libraries' deterministic flag fills new memory by default; ours says why not.
            torch.utils.deterministic.fill_uninitialized_memory = deterministic_fill  # type: ignore[attr-defined]
            started = time.perf_counter()
            loss = pack_loss(ours, one) / len(one.labels) if place == 0 else plain(**batch).loss
            loss.backward()
            optimizers[place].step()
            optimizers[place].zero_grad()
            took[place].append(time.perf_counter() - started)
            losses[place].append(float(loss.detach()))
    here, there = (statistics.median(each[1:]) for each in took)
    print(describe(settings))
    print(
        f"{len(rows)} rows; tokens: {one.ids.numel()} packed, {batch['input_ids'].numel()} padded"
    )
    print(f"here {here:.2f} s a step, plain PEFT {there:.2f} s: {there / here:.2f}x")
    print("loss here      ", [f"{loss:.4f}" for loss in losses[0]])
    print("loss plain PEFT", [f"{loss:.4f}" for loss in losses[1]])


if __name__ == "__main__":
    main()
