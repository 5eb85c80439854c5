"""What every contender is given: one model folder, adapters in PEFT's layout, one prompt.

The weights are the serving weights (bf16, dequantised from NF4) for all who read bf16; llama.cpp
reads the packaged GGUF.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 64
LONG_PROMPT_TOKENS = 768
ADAPTERS = 32
RANK = 8
_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Material:
    """The loaded base (nobody stops early), and the folder that peers read."""

    base: Any
    folder: Path
    prompt: tuple[int, ...]
    long_prompt: tuple[int, ...]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def adapter(self, number: int) -> Path:
        """Return the safetensors file of adapter 1..ADAPTERS."""
        return self.folder / f"adapter-{number}" / "adapter_model.safetensors"


def make_material(cache: Path, folder: Path) -> Material:
    """Export the serving weights and write random adapters into an empty ``folder``."""
    from viz.basemodel.nf4 import serving_weights
    from viz.basemodel.safetensor_file import write_file
    from viz.basemodel.source import load_base

    loaded = load_base(cache_dir=cache)
    base = replace(loaded, shape=replace(loaded.shape, end_ids=()))
    text = "The sea is wide and the harbour is small. " * 120
    tokens = base.tokenizer.encode(text)
    made = Material(base, folder, tokens[:PROMPT_TOKENS], tokens[:LONG_PROMPT_TOKENS])
    made.model.mkdir(parents=True)
    for path in base.directory.glob("*.json"):
        shutil.copy(path, made.model)
    write_file(made.model / "model.safetensors", serving_weights(base), {"format": "pt"})
    for number in range(1, ADAPTERS + 1):
        made.adapter(number).parent.mkdir()
        write_random(made.adapter(number), base, rank=RANK, seed=number)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(made.model),
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(_NAMES),
        }
        made.adapter(number).with_name("adapter_config.json").write_text(json.dumps(config))
    (folder / "prompts.json").write_text(
        json.dumps({"prompt": made.prompt, "long": made.long_prompt})
    )
    return made


def write_random(path: Path, base: Any, *, rank: int, seed: int) -> None:
    """Write a random adapter of all linear layers in bf16, as the trainer does."""
    import torch
    from tests.fakes.tiny_base import random_adapter

    from viz.basemodel.adapter_file import write_adapter

    tensors = random_adapter(base.shape, rank=rank, seed=seed, scale=0.02)
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    write_adapter(path, rounded, rank=rank, alpha=2.0 * rank, base=base.digest)
