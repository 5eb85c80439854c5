"""A config.json is understood to its last member, or the model is refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.families import _SIZES as SIZES
from tests.fakes.families import FAMILIES

from viz.basemodel import shape_reader
from viz.basemodel.shape import DecoderShape, Rope
from viz.basemodel.shape_reader import kept_shape, read_shape
from viz.errors import ModelUnavailable


def _written(folder: Path, family: str = "llama", **members: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"model_type": family, **SIZES, **members}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(
    ("family", "members", "says"),
    [
        ("gpt2", {}, "'gpt2' model.*support: choose one of llama, mistral"),
        (None, {}, "model_type"),
        ("llama", {"attention_chunk_size": 8192}, "sets attention_chunk_size, which"),
        ("llama", {"quantization_config": {"bits": 4}}, "sets quantization_config"),
        ("llama", {"auto_map": {"AutoModel": "mine.Mine"}}, "sets auto_map"),
        ("llama", {"sliding_window": 64}, "sets sliding_window"),
        ("mistral", {"layer_types": ["full_attention"] * 4}, "sets layer_types"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'.*rope_type"),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0}},
            "mscale of the rotary embeddings",
        ),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "two"}}, "accepted|incomplete"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is not between"),
        ("llama", {"hidden_size": "wide"}, "not accepted by transformers"),
        ("llama", {"num_attention_heads": 0}, "not accepted|incomplete"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "not the language model"),
        ("llama", {"eos_token_id": None}, "eos_token_id"),
        ("llama", {"eos_token_id": "two"}, "eos_token_id|not accepted"),
        ("mistral", {"sliding_window": 0}, "sliding_window is not a number"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "layer_types|not accepted"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 4}, "without sliding_window"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "sets attn_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "sets use_bidirectional"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "not accepted"),
        ("gemma2", {"hidden_activation": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_would_not_be_computed_exactly_is_refused(
    tmp_path: Path, family: Any, members: dict[str, Any], says: str
) -> None:
    """Each member that changes the answers and is not understood stops the start, by name."""
    with pytest.raises(ModelUnavailable, match=says):
        read_shape(_written(tmp_path, family, **members))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llama"', "\x00"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        read_shape(tmp_path)


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        read_shape(tmp_path, tmp_path / "cache")


def test_members_that_say_not_used_or_change_no_answer_are_accepted(tmp_path: Path) -> None:
    """Real files have them; refusing them would refuse nearly every real model."""
    plain = read_shape(_written(tmp_path / "a"))
    told: dict[str, Any] = {
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0",
        "use_cache": True,
        "attention_dropout": 0.1,
        "pretraining_tp": 2,
        "rope_interleaved": False,
        "quantization_config": None,
        "sliding_window": None,
        "transformers.js_config": {"dtype": "q4"},
    }
    assert read_shape(_written(tmp_path / "b", **told)) == plain


# The members of configurations as the families' makers publish them; the sizes are small.
_COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
}
_LLAMA_3_2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 16,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "eos_token_id": [2, 3, 4],
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
_QWEN = {
    "max_window_layers": 21,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
_PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("llama", _LLAMA_3_2),
    (
        "llama",
        {
            "architectures": ["LlamaForCausalLM"],
            "is_llama_config": True,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        },
    ),
    (
        "mistral",
        {"architectures": ["MistralForCausalLM"], "rope_theta": 1e6, "sliding_window": None},
    ),
    ("qwen2", {"architectures": ["Qwen2ForCausalLM"], "use_mrope": False, **_QWEN}),
    (
        "qwen3",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 32,
            "rope_scaling": None,
            **_QWEN,
            "sliding_window": None,
        },
    ),
    (
        "smollm3",
        {
            "architectures": ["SmolLM3ForCausalLM"],
            "attention_bias": False,
            "layer_types": ["full_attention"] * 4,
            "max_window_layers": 28,
            "mlp_bias": False,
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "pretraining_tp": 2,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
    ),
    (
        "gemma2",
        {
            "architectures": ["Gemma2ForCausalLM"],
            "attention_bias": False,
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": 30.0,
            "head_dim": 32,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "sliding_window_size": 4096,
        },
    ),
    (
        "gemma3_text",
        {
            "_sliding_window_pattern": 6,
            "architectures": ["Gemma3ForCausalLM"],
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "head_dim": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "query_pre_attn_scalar": 256,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": 512,
            "use_bidirectional_attention": False,
        },
    ),
]


@pytest.mark.parametrize(("family", "members"), _PUBLISHED)
def test_what_the_makers_publish_is_accepted(
    tmp_path: Path, family: str, members: dict[str, Any]
) -> None:
    """A rule that refuses every real model protects nobody."""
    shape = read_shape(_written(tmp_path, family, **(_COMMON | members)))
    assert shape.layers == 4 and shape.context_tokens == 512


def test_the_sizes_are_read_and_the_digest_s_text_is_as_ever(tmp_path: Path) -> None:
    """A base digest is on chains: the text that it hashes never changes for a model like Llama."""
    shape = read_shape(_written(tmp_path, rope_theta=10000.0, eos_token_id=[7, 2]))
    assert shape.canonical() == (
        '{"context_tokens":512,"end_ids":[2,7],"head_dim":16,"heads":4,"hidden":64,'
        '"intermediate":80,"kv_heads":2,"layers":4,"norm_epsilon":1e-06,"rope_theta":10000.0,'
        '"tied":false,"vocabulary":259}'
    )


def test_whatever_changes_the_function_changes_the_digest_s_text(tmp_path: Path) -> None:
    """Two bases that answer differently never share a digest because of what a config says."""
    texts = set()
    for name, (family, members) in FAMILIES.items():
        shape = read_shape(_written(tmp_path / name, family, **members))
        texts.add(shape.canonical())
        assert DecoderShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape
    same = {"mistral-window", "qwen2-window"}  # which differ from their plain forms, of course
    assert len(texts) == len(FAMILIES) and same <= FAMILIES.keys()
    yarn = Rope(1e4, "yarn", 4.0, 128)
    for other in (replace(yarn, factor=2.0), replace(yarn, truncate=False), Rope(1e4)):
        changed = [replace(shape, rope=rope).canonical() for rope in (yarn, other)]
        assert changed[0] != changed[1]


def test_what_was_read_is_kept_and_read_again_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's second start does not import transformers; a damaged or other file is not used."""
    folder, cache = _written(tmp_path / "model", "qwen3"), tmp_path / "cache"
    shape = read_shape(folder, cache)
    with monkeypatch.context() as patched:
        patched.setattr(shape_reader, "_instantiated", None)
        assert read_shape(folder, cache) == shape
    kept_shape(folder, cache).write_text('{"hidden": 64')
    assert read_shape(folder, cache) == shape
    _written(tmp_path / "model", "qwen3", head_dim=32)
    assert read_shape(folder, cache) != shape
    (folder / "generation_config.json").write_text('{"eos_token_id": [5]}')
    assert read_shape(folder, cache).end_ids == (5,)


def test_a_weight_that_the_engine_would_not_compute_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If transformers gives a family another weight one day, the model is refused, not guessed."""
    own = shape_reader._instantiated

    def grown(*given: Any) -> Any:
        config, tensors = own(*given)
        return config, tensors | {"model.layers.0.mlp.gate_norm.weight": (80,)}

    monkeypatch.setattr(shape_reader, "_instantiated", grown)
    with pytest.raises(ModelUnavailable, match=r"mlp\.gate_norm\.weight"):
        read_shape(_written(tmp_path))
