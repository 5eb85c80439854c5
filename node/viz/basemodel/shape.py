"""Read and check the architecture of a Llama-family base model from its config.json.

Owns the sizes and the names of the linear layers. Invariant: the engine's forward pass computes
every accepted architecture exactly; any other is refused with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from viz.domain.strict_json import load_json
from viz.errors import ModelUnavailable

LINEARS: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a Llama decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU, no biases."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_tokens: int
    norm_epsilon: float
    rope_theta: float
    tied: bool
    end_ids: tuple[int, ...]

    def linear(self, name: str) -> tuple[int, int]:
        """Return (out, in) of one of LINEARS."""
        query, keyed = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (query, self.hidden),
            "self_attn.k_proj": (keyed, self.hidden),
            "self_attn.v_proj": (keyed, self.hidden),
            "self_attn.o_proj": (self.hidden, query),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }[name]

    def modules(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield every linear layer of the decoder, ``model.layers.N.<name>``, with (out, in)."""
        for layer in range(self.layers):
            for name in LINEARS:
                yield f"model.layers.{layer}.{name}", self.linear(name)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight of the model."""
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"model.layers.{layer}.{norm}.weight"] = (self.hidden,)
        for module, size in self.modules():
            found[f"{module}.weight"] = size
        return found

    def canonical(self) -> str:
        """Return the shape as canonical JSON, independent of library versions."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def read_shape(directory: Path) -> LlamaShape:
    """Read config.json (and generation_config.json) of a Hugging Face model directory.

    Raises ModelUnavailable if this engine would not compute the model exactly.
    """
    config = _json(directory / "config.json")
    family = config.get("model_type")
    if family != "llama":
        raise ModelUnavailable(f"{directory} is a {family!r} model; only llama models are served")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {
        "rope_type": kind != "default",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
    }
    if named := [key for key, bad in unsupported.items() if bad]:
        raise ModelUnavailable(f"{directory}/config.json sets {', '.join(named)}: not supported")
    try:
        heads = int(config["num_attention_heads"])
        return LlamaShape(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            vocabulary=int(config["vocab_size"]),
            context_tokens=int(config["max_position_embeddings"]),
            norm_epsilon=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            tied=bool(config.get("tie_word_embeddings", False)),
            end_ids=_end_ids(directory, config),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelUnavailable(f"{directory}/config.json is incomplete: {error}") from error


def _end_ids(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    path = directory / "generation_config.json"
    named = (_json(path).get("eos_token_id") if path.exists() else None) or config["eos_token_id"]
    return tuple(sorted({int(i) for i in named} if isinstance(named, list) else {int(named)}))


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path} cannot be read as a model's configuration") from error
    if not isinstance(loaded, dict):
        raise ModelUnavailable(f"{path} is not a JSON object")
    return loaded
