"""Read a base model's architecture from its config.json, and check it against transformers.

Transformers instantiates the model on the meta device, without memory; linear layers, shapes,
biases and norms are read from that instance. Invariants: every member of config.json is understood,
or known not to affect answers, or has a value that switches it off; a model with any other member
is refused, and the error names the member. The engine reads exactly the weights of transformers'
model. The result is cached beside the converted models, because importing transformers takes
seconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from viz.basemodel.shape import LINEARS, Activation, DecoderShape, Rope
from viz.domain.strict_json import load_json
from viz.errors import ModelUnavailable

# Increase this when the result of reading a config.json changes.
_READER: Final = 1
_MOST_LAYERS: Final = 1_024
_NOT_USED: Final[tuple[Any, ...]] = (None, False, {}, [], "")

# Members that every supported family has; they are read below or checked by transformers.
_READ: Final = frozenset(
    {"model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers"}
    | {"num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "hidden_act"}
    | {"max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "eos_token_id"}
    | {"rope_theta", "rope_scaling", "rope_parameters", "attention_bias", "mlp_bias"}
)
# Members without effect on answers: for training, bookkeeping or other programs.
_HARMLESS: Final = frozenset(
    {"_name_or_path", "_model_name_or_path", "transformers_version", "torch_dtype", "dtype"}
    | {"use_cache", "return_dict", "output_hidden_states", "output_attentions"}
    | {"initializer_range", "attention_dropout", "pretraining_tp", "chunk_size_feed_forward"}
    | {"bos_token_id", "pad_token_id", "unk_token_id", "id2label", "label2id", "num_labels"}
    | {"attn_implementation", "_attn_implementation_autoset", "cache_implementation"}
    | {"_attn_implementation", "torchscript", "tokenizer_class", "problem_type"}
    # Other programs' default sampling settings.
    | {"do_sample", "temperature", "top_p", "top_k", "max_length"}
    | {"is_llama_config", "transformers.js_config", "unsloth_fixed", "unsloth_version"}
    | {"max_window_layers", "no_rope_layer_interval"}
)


@dataclass(frozen=True, slots=True)
class _Family:
    """A family's own members of config.json, and how its model differs from Llama's.

    ``offset`` is added to the weights of norms; ``scaled`` means that embeddings are multiplied by
    the square root of their width. Names and shapes of the weights do not show these two.
    """

    reads: frozenset[str] = frozenset()
    offset: float = 0.0
    scaled: bool = False


_WINDOWS: Final = frozenset({"sliding_window", "use_sliding_window", "layer_types"})
_GEMMA: Final = frozenset(
    {"hidden_activation", "query_pre_attn_scalar", "sliding_window", "layer_types"}
    | {"final_logit_softcapping"}
)
_FAMILIES: Final[Mapping[str, _Family]] = {
    "llama": _Family(),
    "mistral": _Family(frozenset({"sliding_window"})),
    "qwen2": _Family(_WINDOWS),
    "qwen3": _Family(_WINDOWS),
    "smollm3": _Family(_WINDOWS | {"no_rope_layers"}),
    "gemma2": _Family(
        # transformers reads the window only from ``sliding_window``; Google's files have it twice.
        _GEMMA | {"attn_logit_softcapping", "sliding_window_size"},
        offset=1.0,
        scaled=True,
    ),
    "gemma3_text": _Family(
        _GEMMA | {"rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"},
        offset=1.0,
        scaled=True,
    ),
}
_ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_ROPE_MEMBERS: Final = {
    "factor": "factor",
    "original_max_position_embeddings": "original_tokens",
    "low_freq_factor": "low_frequency",
    "high_freq_factor": "high_frequency",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
}
_ROPE_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "original_max_position_embeddings"})
    | {"low_freq_factor", "high_freq_factor"},
    "yarn": frozenset({"factor", "original_max_position_embeddings", "attention_factor"})
    | {"beta_fast", "beta_slow", "truncate"},
}


def read_shape(directory: Path, cache_dir: Path | None = None) -> DecoderShape:
    """Read config.json (and generation_config.json) of a Hugging Face model directory.

    With ``cache_dir``, the result is cached there. Raises ModelUnavailable with the reason if this
    engine would not compute the model exactly.
    """
    kept = cache_dir and kept_shape(directory, cache_dir)
    try:
        if kept is not None and kept.exists():
            return DecoderShape.from_json(json.loads(kept.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a damaged file is written again
    shape = _read(directory)
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(shape.to_json()), "utf-8")
            partial.replace(kept)
        except OSError as error:
            raise ModelUnavailable(
                f"the base model's shape cannot be written to {kept.parent}: {error}"
            ) from error
    return shape


def kept_shape(directory: Path, cache_dir: Path) -> Path:
    """Return the cache file for this configuration and these library versions.

    Raises ModelUnavailable.
    """
    digest = hashlib.sha256()
    try:
        digest.update(f"{_READER} {version('transformers')}".encode())
        for name in ("config.json", "generation_config.json"):
            path = directory / name
            digest.update(b"\n" + (path.read_bytes() if path.exists() else b""))
    except PackageNotFoundError as error:
        raise ModelUnavailable("transformers is not installed: run scripts/setup") from error
    except OSError as error:
        raise ModelUnavailable(f"{directory}/config.json cannot be read: {error}") from error
    return cache_dir / "shapes" / f"{digest.hexdigest()[:32]}.json"


def _read(directory: Path) -> DecoderShape:
    told = _json(directory / "config.json")
    name = told.get("model_type")
    family = _FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelUnavailable(
            f"{directory} is a {str(name)[:40]!r} model, which the embedded engine does not "
            f"support: choose one of {', '.join(_FAMILIES)} (model_type in config.json)"
        )
    where = f"{directory}/config.json of a {name} model"
    unknown = sorted(
        member
        for member, value in told.items()
        if member not in _READ | _HARMLESS | family.reads
        and not any(type(value) is type(each) and value == each for each in _NOT_USED)
    )
    if unknown:
        raise ModelUnavailable(
            f"{where} sets {', '.join(unknown)[:200]}, which the embedded engine does not know: "
            "it may change the answers, so the model is not served"
        )
    config, tensors = _instantiated(directory, where)
    try:
        shape = _shape(config, tensors, family, _end_ids(directory, told), where)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelUnavailable(f"{where} is incomplete: {error}") from error
    _require_same(tensors, shape, where)
    return shape


def _instantiated(directory: Path, where: str) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Return transformers' configuration, and names and shapes of its model's weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
        _require_known_layers(config, where)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ModelUnavailable:
        raise
    except Exception as error:
        # The library checks the members' types and values, and names what is wrong.
        raise ModelUnavailable(
            f"{where} is not accepted by transformers: {' '.join(str(error).split())[:300]}"
        ) from error
    named = config.architectures
    if named and type(model).__name__ not in named:
        raise ModelUnavailable(
            f"{where} is a {str(named[0])[:60]}, and not the language model {type(model).__name__}"
        )
    tensors = {name: tuple(each.shape) for name, each in model.named_parameters()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return config, tensors


def _shape(
    config: Any,
    tensors: Mapping[str, tuple[int, ...]],
    family: _Family,
    end_ids: tuple[int, ...],
    where: str,
) -> DecoderShape:
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    ropes = _ropes(config, where)
    first = "model.layers.0."
    linears = tuple(
        (name, size[0], size[1])
        for name in LINEARS
        if len(size := tensors.get(f"{first}{name}.weight", ())) == 2
    )
    windowed = _windowed(config, layers)
    if windowed and (type(config.sliding_window) is not int or config.sliding_window < 1):
        raise ModelUnavailable(f"{where}: sliding_window is not a number of tokens")
    rotated = getattr(config, "no_rope_layers", None)  # 1 for each layer with rotary embeddings
    activation = _ACTIVATIONS.get(_activation(config))
    if activation is None:
        raise ModelUnavailable(
            f"{where}: the activation {str(_activation(config))[:40]!r} is not supported"
        )
    return DecoderShape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=layers,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        context_tokens=config.max_position_embeddings,
        norm_epsilon=float(config.rms_norm_eps),
        rope=ropes[0],
        tied=bool(config.tie_word_embeddings),
        end_ids=end_ids,
        linears=linears,
        biases=tuple(name for name, _, _ in linears if f"{first}{name}.bias" in tensors),
        local_rope=ropes[1] if windowed and ropes[1] != ropes[0] else None,
        window=config.sliding_window if windowed else None,
        windowed=windowed,
        unrotated=tuple(n for n in range(layers) if rotated is not None and not rotated[n]),
        head_norms=f"{first}self_attn.q_norm.weight" in tensors,
        norm_offset=family.offset,
        output_norms=f"{first}pre_feedforward_layernorm.weight" in tensors,
        embedding_scale=math.sqrt(config.hidden_size) if family.scaled else 1.0,
        query_size=_number(config, family, "query_pre_attn_scalar"),
        attention_cap=_number(config, family, "attn_logit_softcapping"),
        logit_cap=_number(config, family, "final_logit_softcapping"),
        activation=activation,
    )


def _number(config: Any, family: _Family, name: str) -> float | None:
    """Return a member that the family reads if it is above 0; None if it is absent or null."""
    value = getattr(config, name, None) if name in family.reads else None
    if value is None:
        return None
    if not 0.0 < float(value) < math.inf:
        raise ValueError(f"{name} is {value}")
    return float(value)


def _activation(config: Any) -> Any:
    return getattr(config, "hidden_activation", None) or config.hidden_act


def _windowed(config: Any, layers: int) -> tuple[int, ...]:
    """Return the layers with a window; without ``layer_types``, all layers have it."""
    if getattr(config, "sliding_window", None) is None:
        return ()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return tuple(n for n in range(layers) if kinds[n] == "sliding_attention")


def _require_known_layers(config: Any, where: str) -> None:
    layers, kinds = config.num_hidden_layers, getattr(config, "layer_types", None) or []
    if not 1 <= layers <= _MOST_LAYERS:
        raise ModelUnavailable(f"{where}: num_hidden_layers is not between 1 and {_MOST_LAYERS}")
    known = {"full_attention"}
    if getattr(config, "sliding_window", None) is not None:
        known.add("sliding_attention")
    if unknown := sorted(set(map(str, kinds)) - known):
        raise ModelUnavailable(
            f"{where}: layer_types names {unknown[0][:40]}, which is not supported"
            + (" without sliding_window" if unknown[0] == "sliding_attention" else "")
        )


def _ropes(config: Any, where: str) -> tuple[Rope, Rope]:
    """Return the rotary embeddings of layers without a window, and of those with one."""
    told = config.rope_parameters
    if "full_attention" in told:
        return _rope(told["full_attention"], where), _rope(told["sliding_attention"], where)
    rope = _rope(told, where)
    return rope, rope


def _rope(told: Mapping[str, Any], where: str) -> Rope:
    kind = told.get("rope_type", "default")
    used = _ROPE_KINDS.get(kind)
    if used is None:
        raise ModelUnavailable(
            f"{where}: the rotary embeddings {str(kind)[:40]!r} (rope_type) are not supported, "
            f"only {', '.join(_ROPE_KINDS)}"
        )
    whole = told.get("partial_rotary_factor") in (None, 1.0)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    # As in transformers, each kind ignores the members of the others.
    unknown = sorted(set(told) - known - set(_ROPE_MEMBERS))
    if unknown or not whole:
        raise ModelUnavailable(
            f"{where}: {(unknown or ['partial_rotary_factor'])[0][:60]} of the rotary embeddings "
            "is not supported"
        )
    given = {_ROPE_MEMBERS[name]: told[name] for name in used if told.get(name) is not None}
    convert: Mapping[str, Callable[[Any], Any]] = {"original_tokens": int, "truncate": bool}
    return Rope(
        theta=float(told["rope_theta"]),
        kind=kind,
        **{name: convert.get(name, float)(value) for name, value in given.items()},
    )


def _require_same(tensors: Mapping[str, tuple[int, ...]], shape: DecoderShape, where: str) -> None:
    """Raise ModelUnavailable if the weights that the engine reads are not transformers'."""
    ours = shape.tensors()
    wrong = sorted(name for name in {*ours, *tensors} if ours.get(name) != tensors.get(name))
    if wrong:
        raise ModelUnavailable(
            f"{where} describes the weight {wrong[0]}, which the embedded engine would not compute "
            "as transformers does"
        )


def _end_ids(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    path = directory / "generation_config.json"
    named = _json(path).get("eos_token_id") if path.exists() else None
    named = config.get("eos_token_id") if named is None else named
    listed = named if isinstance(named, list) else [named]
    if not listed or not all(type(each) is int and each >= 0 for each in listed):
        raise ModelUnavailable(
            f"{directory}: eos_token_id of config.json or generation_config.json names no token, "
            "so no answer would end"
        )
    return tuple(sorted(set(listed)))


def _json(path: Path) -> dict[str, Any]:
    try:
        # As transformers and vLLM read it: the last of two members counts.
        loaded = load_json(path.read_bytes(), last_counts=True)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path} cannot be read as a model's configuration") from error
    if not isinstance(loaded, dict):
        raise ModelUnavailable(f"{path} is not a JSON object")
    return loaded
