"""A tiny random Llama and random adapters for it: the real engine's arithmetic in milliseconds.

Byte-level vocabulary: ids 0..2 are control tokens, 3..258 the bytes. Built once a directory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from viz.basemodel.adapter_file import write_adapter
from viz.basemodel.detokenise import byte_alphabet
from viz.basemodel.policy import QuantisationPolicy
from viz.basemodel.safetensor_file import write_file
from viz.basemodel.shape import LINEARS, DecoderShape
from viz.basemodel.shape_reader import read_shape
from viz.basemodel.source import LoadedBase, load_base
from viz.domain.units import Hash32

if TYPE_CHECKING:
    import torch

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_tiny_directory(
    directory: Path,
    *,
    seed: int = 7,
    merges: Sequence[tuple[str, str]] = (),
    **config_changes: int,
) -> Path:
    """Write a Hugging Face model directory of a 2-layer Llama with random weights.

    ``merges`` are pairs of letters or earlier pairs that its tokenizer joins to one token.
    """
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 259 + len(merges),
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | config_changes
    (directory / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.ones(size).bfloat16()
        if len(size) == 1
        else (torch.randn(size, generator=generator) * 0.15).bfloat16()
        for name, size in read_shape(directory).tensors().items()
    }
    write_file(directory / "model.safetensors", weights, {"format": "pt"})
    _write_tokenizer(directory, merges)
    return directory


def make_tiny_base(
    root: Path,
    *,
    seed: int = 7,
    quantised: bool = False,
    merges: Sequence[tuple[str, str]] = (),
    **config_changes: int,
) -> LoadedBase:
    """Return the tiny base under ``root``, loaded; unquantised spares importing bitsandbytes."""
    directory = make_tiny_directory(root / "tiny", seed=seed, merges=merges, **config_changes)
    policy = QuantisationPolicy() if quantised else QuantisationPolicy(keep=("*",))
    return load_base(directory, cache_dir=root / "cache", policy=policy)


def random_adapter(
    shape: DecoderShape,
    *,
    rank: int,
    seed: int,
    scale: float = 0.3,
    linears: Sequence[str] = LINEARS,
) -> dict[str, torch.Tensor]:
    """Return random LoRA weights under PEFT's names; ``scale`` sets how much they change."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for module, (out, into) in shape.modules():
        if module.split(".", 3)[3] in linears:
            stem = f"base_model.model.{module}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * (
                into**-0.5
            )
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * (
                scale * rank**-0.5
            )
    return tensors


def write_random_adapter(
    path: Path, base: LoadedBase, *, rank: int, seed: int, scale: float = 0.3
) -> Hash32:
    """Write a random adapter for ``base`` and return its digest."""
    tensors = random_adapter(base.shape, rank=rank, seed=seed, scale=scale)
    return write_adapter(path, tensors, rank=rank, alpha=2.0 * rank, base=base.digest)


def _write_tokenizer(directory: Path, merges: Sequence[tuple[str, str]] = ()) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(byte_alphabet(), key=byte_alphabet().__getitem__)
    joined = ["".join(pair) for pair in merges]
    vocabulary = {token: place for place, token in enumerate((*CONTROL, *letters, *joined))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": TEMPLATE,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
