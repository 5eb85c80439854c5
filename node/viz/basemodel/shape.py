"""Describe the architecture of a decoder-only base model as one value.

Owns the sizes, and the few points in which the supported families differ: rotary embeddings,
biases, norms, windows, scales and caps. Engine, conversion, training and memory plan read only this
value: none of them depends on a family's name. ``viz.basemodel.shape_reader`` makes it from a
config.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

# The linear layers that the engine's pass computes in each layer of the decoder.
LINEARS: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
RopeKind = Literal["default", "linear", "llama3", "yarn"]
Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embeddings, and how their frequencies are scaled for longer contexts.

    All kinds except "default" use ``factor`` and ``original_tokens``; "llama3" also uses
    ``low_frequency`` and ``high_frequency``, "yarn" the rest. ``attention_factor`` None means
    0.1 ln(factor) + 1. Sources: RoFormer, arXiv 2104.09864; YaRN, arXiv 2309.00071; Llama 3.1.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    original_tokens: int = 0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A decoder: RMSNorm, rotary embeddings, grouped-query attention, a gated MLP.

    The fields with defaults say how it differs from Llama's pass:

    - ``linears``: (name, out, in) of the linear modules of each layer, named as in LINEARS
    - ``biases``: those of them that have a bias
    - ``local_rope``: rotary embeddings of the layers with a window; None: the same as the others
    - ``window``: how many tokens, itself included, a token attends to in the layers ``windowed``
    - ``unrotated``: layers without rotary embeddings
    - ``head_norms``: RMSNorm over each head's queries and keys, before the rotation
    - ``norm_offset``: what is added to each norm's weight (Gemma: 1)
    - ``output_norms``: norms of the outputs of attention and MLP, before they are added (Gemma)
    - ``embedding_scale``: the factor of the embeddings
    - ``query_size``: scores are divided by its square root; None: ``head_dim``
    - ``attention_cap``, ``logit_cap``: x -> cap * tanh(x / cap) of scores and of logits
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_tokens: int
    norm_epsilon: float
    rope: Rope
    tied: bool
    end_ids: tuple[int, ...]
    linears: tuple[tuple[str, int, int], ...]
    biases: tuple[str, ...] = ()
    local_rope: Rope | None = None
    window: int | None = None
    windowed: tuple[int, ...] = ()
    unrotated: tuple[int, ...] = ()
    head_norms: bool = False
    norm_offset: float = 0.0
    output_norms: bool = False
    embedding_scale: float = 1.0
    query_size: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    activation: Activation = "silu"

    @property
    def attention_scale(self) -> float:
        """Return the factor of the products of queries and keys."""
        return 1.0 / math.sqrt(self.query_size or self.head_dim)

    @property
    def mlp_norm(self) -> str:
        """Return the name of the norm before a layer's MLP."""
        return "pre_feedforward_layernorm" if self.output_norms else "post_attention_layernorm"

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens, itself included, a token attends to in this layer; None: all."""
        return self.window if layer in self.windowed else None

    def rope_of(self, layer: int) -> Rope | None:
        """Return the rotary embeddings of this layer; None if it has none."""
        if layer in self.unrotated:
            return None
        return (self.local_rope or self.rope) if layer in self.windowed else self.rope

    def is_llama(self, capacity: int) -> bool:
        """Return whether Llama's forward pass is right for this model up to ``capacity`` tokens.

        Any kind of rotary embeddings is supported. A window of ``capacity`` or more has no effect.
        """
        if self.windowed and (self.window or 0) < capacity:
            return False
        return self._differences().keys() <= {"rope", "window", "windowed"}

    def linear(self, name: str) -> tuple[int, int]:
        """Return (out, in) of one of LINEARS."""
        return next((out, into) for known, out, into in self.linears if known == name)

    def modules(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield every linear layer of the decoder, ``model.layers.N.<name>``, with (out, in)."""
        for layer in range(self.layers):
            for name, out, into in self.linears:
                yield f"model.layers.{layer}.{name}", (out, into)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight of the model."""
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, self.hidden)
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), self.hidden)
        if self.output_norms:
            norms |= {f"{side}_feedforward_layernorm": self.hidden for side in ("pre", "post")}
        if self.head_norms:
            norms |= {f"self_attn.{of}_norm": self.head_dim for of in "qk"}
        for layer in range(self.layers):
            for norm, size in norms.items():
                found[f"model.layers.{layer}.{norm}.weight"] = (size,)
            for name, out, into in self.linears:
                found[f"model.layers.{layer}.{name}.weight"] = (out, into)
                if name in self.biases:
                    found[f"model.layers.{layer}.{name}.bias"] = (out,)
        return found

    def canonical(self) -> str:
        """Return the shape as canonical JSON, independent of library versions.

        Besides the sizes it has only the fields that differ from Llama's pass, so that a new field
        does not change the digest of a base that does not use it. The linear layers are left out:
        they follow from the weights.
        """
        told: dict[str, Any] = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name in _SIZES
        }
        told |= {"rope_theta": self.rope.theta} | self._differences()
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON, for ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> DecoderShape:
        """Parse the output of ``to_json``; raise TypeError or KeyError for anything else."""
        local = told["local_rope"]
        lists = ("end_ids", "biases", "windowed", "unrotated")
        return cls(
            **{
                **told,
                **{name: tuple(told[name]) for name in lists},
                "rope": Rope(**told["rope"]),
                "local_rope": Rope(**local) if local else None,
                "linears": tuple((name, out, into) for name, out, into in told["linears"]),
            }
        )

    def _differences(self) -> dict[str, Any]:
        """Return the fields that differ from Llama's pass, as JSON."""
        found: dict[str, Any] = {
            each.name: value
            for each in fields(self)
            if each.name not in _SIZES | {"rope", "linears", "local_rope"}
            and (value := getattr(self, each.name)) != each.default
        }
        for name, rope in (("rope", self.rope), ("local_rope", self.local_rope)):
            changed = _changed(rope) if rope else {}
            if changed.keys() - ({"theta"} if name == "rope" else set()):
                found[name] = changed
        return found


def _changed(rope: Rope) -> dict[str, Any]:
    """Return theta and the other fields that differ from their defaults."""
    told = {each.name: (getattr(rope, each.name), each.default) for each in fields(rope)}
    return {name: value for name, (value, default) in told.items() if value != default}


_SIZES: Final = frozenset(
    {"hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary"}
    | {"context_tokens", "norm_epsilon", "tied", "end_ids"}
)
