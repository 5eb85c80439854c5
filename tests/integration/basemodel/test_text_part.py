"""A checkpoint with a vision part is served as the language model in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fakes.tiny_base import _write_tokenizer

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.policy import QuantisationPolicy
from viz.basemodel.preparation import prepared_base
from viz.basemodel.source import load_base
from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
from viz.engine.embedded.kv_cache import KvCache
from viz.errors import ModelUnavailable

TOKENS = [3 + 7 * at % 250 for at in range(40)]
TEXT = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 259,
    "max_position_embeddings": 512,
    "query_pre_attn_scalar": 24,
    "sliding_window": 24,
    "sliding_window_pattern": 3,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A tiny random Gemma 3 with a vision part, and the logits that it gives to a text."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    folder = tmp_path_factory.mktemp("whole") / "gemma"
    torch.manual_seed(3)
    config = Gemma3Config(text_config=dict(TEXT), vision_config=dict(VISION))
    model: Any = Gemma3ForConditionalGeneration(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    model.save_pretrained(str(folder))
    # Read again, because its frequencies were rounded to bf16 with the weights.
    reference: Any = Gemma3ForConditionalGeneration.from_pretrained(
        str(folder), dtype=torch.float32
    )
    with torch.no_grad():
        logits = reference.eval()(input_ids=torch.tensor([TOKENS])).logits[0, -1]
    told = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": TEXT,
        "vision_config": VISION,
        "eos_token_id": [1, 2],
        "mm_tokens_per_image": 256,
    }
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "generation_config.json").unlink(missing_ok=True)
    _write_tokenizer(folder)
    return folder, logits


def _as_published(folder: Path, names: dict[str, str]) -> None:
    """Rename weights in the file, by the beginnings of their names."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {}
    for name, tensor in tensors.items():
        before = next((each for each in names if name.startswith(each)), "")
        renamed[names.get(before, "") + name.removeprefix(before)] = tensor
    save_file(renamed, folder / "model.safetensors")


@pytest.mark.parametrize(
    "names",
    [
        {},
        {
            "model.language_model.": "language_model.model.",
            "model.vision_tower.": "vision_tower.",
            "model.multi_modal_projector.": "multi_modal_projector.",
        },
        {
            "language_model.model.": "model.language_model.",
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
    ],
    ids=["as saved", "as published", "as transformers 5 writes"],
)
def test_its_text_part_answers_as_the_whole_does(
    whole: tuple[Path, torch.Tensor], tmp_path: Path, names: dict[str, str]
) -> None:
    """The same logits for a text without images, whatever the names of the weights begin with."""
    source, expected = whole
    folder = tmp_path / "gemma"
    shutil.copytree(source, folder)
    _as_published(folder, names)
    policy = QuantisationPolicy(keep=("*",))
    base = load_base(folder, cache_dir=tmp_path / "cache", policy=policy)
    assert base.model.name == "gemma" and base.shape.end_ids == (1, 2)
    assert base.directory.parent == tmp_path / "cache" / "text"
    cache = KvCache(base.shape, 1, 64, torch.float32)
    decoder = DecoderModel(serving_weights(base), base.shape, cache, torch.float32)
    found = decoder.prefill([PrefillChunk(0, 0, TOKENS, None)], [0])[0]
    assert (found - expected).abs().max() <= 2e-4 * expected.abs().max()


async def test_it_is_taken_out_once_by_the_child(
    whole: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    """A second start makes nothing; other weights in the folder are taken out again."""
    folder, cache = tmp_path / "gemma", tmp_path / "cache"
    shutil.copytree(whole[0], folder)
    base = await prepared_base(str(folder), cache_dir=cache)
    again: list[float] = []
    same = await prepared_base(str(folder), cache_dir=cache, report=again.append)
    assert same.digest == base.digest and again == []
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / "model.safetensors")
    other = await prepared_base(str(folder), cache_dir=cache)
    assert other.digest != base.digest


def _unknown_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"audio_tower.weight": torch.ones(3)}, folder / "model.safetensors")


def _no_text_config(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())
    del told["text_config"]
    (folder / "config.json").write_text(json.dumps(told))


def _lost_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_unknown_weight, r"audio_tower\.weight, which is neither"),
        (_no_text_config, "has no text_config"),
        (_lost_weight, r"mlp\.up_proj\.weight is missing"),
    ],
)
def test_what_is_not_understood_is_refused(
    whole: tuple[Path, torch.Tensor],
    tmp_path: Path,
    change: Callable[[Path], None],
    says: str,
) -> None:
    folder = tmp_path / "gemma"
    shutil.copytree(whole[0], folder)
    change(folder)
    with pytest.raises(ModelUnavailable, match=says):
        load_base(folder, cache_dir=tmp_path / "cache")
