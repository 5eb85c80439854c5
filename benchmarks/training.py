"""A training step here against plain PEFT with transformers' Trainer on bitsandbytes' own layers.

``python benchmarks/training.py [work] [--steps 4]``: same rows, base, initial adapter, rate and
optimiser; their steps and ours take turns in one run. Prints seconds a step, the ratio and both
losses. They run as the libraries come, without deterministic kernels; ours are deterministic.
Needs the model stack and the packaged base.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from viz.basemodel.source import LoadedBase, load_base
from viz.domain.work import parse_work
from viz.training.dataset import build_dataset
from viz.training.environment import compute_dtype, describe, make_deterministic
from viz.training.packing import TokenRow, pack, tokenise
from viz.training.qlora import adapter_tensors, build_model, pack_loss
from viz.training.run import TrainingSettings

DEFAULT_WORK = Path("examples/works/varn-point/work.jsonl")
RATE = 1e-3


def plain_peft(base: LoadedBase, settings: TrainingSettings, dtype: torch.dtype) -> Any:
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
        target_modules=sorted({name.rpartition(".")[2] for name, _, _ in base.shape.linears}),
    )
    return get_peft_model(model, config).train()


def padded(rows: list[TokenRow]) -> list[dict[str, torch.Tensor]]:
    """Return the rows padded on the right, their labels masked, as a Trainer takes them."""
    width = max(len(row.ids) for row in rows)
    out = []
    for row in rows:
        ids = torch.zeros(width, dtype=torch.long)
        seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        ids[: len(row.ids)] = torch.tensor(row.ids)
        seen[: len(row.ids)] = 1
        for at in row.supervised:
            labels[at] = row.ids[at]
        out.append({"input_ids": ids, "attention_mask": seen, "labels": labels})
    return out


class TakeTurns(TrainerCallback):  # type: ignore[misc]
    """Times each of the Trainer's steps, then does and times one of ours."""

    def __init__(self, ours: Any, packed: Any) -> None:
        self._ours, self._packed, self._began = ours, packed, 0.0
        trainable = [p for p in ours.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trainable, lr=RATE, weight_decay=0.0, foreach=False)
        self.theirs_s: list[float] = []
        self.ours_s: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.theirs_s.append(time.perf_counter() - self._began)
        torch.use_deterministic_algorithms(True)
        started = time.perf_counter()
        loss = pack_loss(self._ours, self._packed) / len(self._packed.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.ours_s.append(time.perf_counter() - started)
        self.losses.append(float(loss.detach()))
        torch.use_deterministic_algorithms(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="?", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--steps", type=int, default=4, help="after one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    chosen = parser.parse_args()
    settings = TrainingSettings(threads=chosen.threads)
    dtype = compute_dtype(settings)
    base = load_base(cache_dir=chosen.cache)
    kind = "dialogue" if chosen.work.suffix == ".jsonl" else "text"
    work = parse_work(kind, chosen.work.read_bytes())
    learned = build_dataset([work], seed=settings.seed, held_out_share=0.0).training
    rows = [tokenise(row, base.tokenizer, settings.max_row_tokens) for row in learned]
    rows = rows[: settings.rows_per_step]
    make_deterministic(settings)
    ours, plain = build_model(base, settings), plain_peft(base, settings, dtype)
    torch.use_deterministic_algorithms(False)
    theirs = adapter_tensors(plain)
    with torch.no_grad():
        for name, tensor in adapter_tensors(ours).items():
            theirs[name].copy_(tensor)
    batch, packed = padded(rows), pack(rows, dtype)
    turns = TakeTurns(ours, packed)
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(
            model=plain,
            args=TrainingArguments(
                scratch,
                max_steps=chosen.steps + 1,
                per_device_train_batch_size=len(batch),
                learning_rate=RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=0.0,
                optim="adamw_torch",
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=batch,
            callbacks=[turns],
        ).train()
    here, there = (statistics.median(each[1:]) for each in (turns.ours_s, turns.theirs_s))
    ratios = [b / a for a, b in zip(turns.ours_s[1:], turns.theirs_s[1:], strict=True)]
    print(describe(settings))
    tokens = sum(row["input_ids"].numel() for row in batch)
    print(f"{len(rows)} rows; tokens: {packed.ids.numel()} packed, {tokens} padded")
    print(
        f"here {here:.2f} s a step, plain PEFT with Trainer {there:.2f} s: "
        f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print("loss here, step by step", [f"{loss:.4f}" for loss in turns.losses])


if __name__ == "__main__":
    main()
