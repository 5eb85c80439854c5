"""A tiny random model of each family that the embedded engine serves, made by transformers.

Norms and biases are random too: a norm of ones would hide whether it is applied. Sizes are chosen
so that no two dimensions of a layer are equal, and windows so that short texts leave them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fakes.tiny_base import _write_tokenizer

from viz.basemodel.policy import QuantisationPolicy
from viz.basemodel.source import LoadedBase, load_base

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 259,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# A name for each case: the family and what its configuration says beyond the sizes.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama-3.1": ("llama", {"rope_scaling": _LLAMA3, "rope_theta": 500_000.0}),
    "llama-yarn": ("llama", {"rope_scaling": _YARN}),
    "mistral": ("mistral", {"head_dim": 32, "sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 24}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
    ),
    "qwen2-yarn": ("qwen2", {"rope_scaling": _YARN}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 1, 1, 0], "rope_theta": 50_000.0}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 4.0,
            "sliding_window": 24,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "sliding_window": 24,
            "sliding_window_pattern": 3,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
}


def make_family(directory: Path, name: str, *, seed: int = 11, **changes: Any) -> Path:
    """Write a Hugging Face model directory of a tiny random model of the case ``name``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family, own = FAMILIES[name]
    given = _SIZES | own | changes
    config = AutoConfig.for_model(family, **given)
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
            else:  # around what the family's norms begin with: 1 for most, 0 for Gemma and biases
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(torch.bfloat16).save_pretrained(str(directory))
    # As a hub's file would say it: what the class adds by default is no member of it.
    told = {"model_type": family, "architectures": [type(model).__name__], **given}
    (directory / "config.json").write_text(json.dumps(told))
    (directory / "generation_config.json").unlink(missing_ok=True)
    _write_tokenizer(directory)
    return directory


def family_base(root: Path, name: str, *, quantised: bool = False, **changes: Any) -> LoadedBase:
    """Return the tiny model of the case ``name`` under ``root``, loaded."""
    directory = make_family(root / name, name, **changes)
    policy = QuantisationPolicy() if quantised else QuantisationPolicy(keep=("*",))
    return load_base(directory, cache_dir=root / "cache", policy=policy)
