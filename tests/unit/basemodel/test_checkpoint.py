"""A checkpoint is read shard by shard, and refused if it is not exactly what config.json says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.checkpoint import CheckpointTensors
from viz.basemodel.nf4 import ServedTensors, serving_weights
from viz.basemodel.shape_reader import read_shape
from viz.basemodel.source import load_base
from viz.errors import ModelUnavailable

Tensors = dict[str, torch.Tensor]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_tiny_directory(tmp_path / "tiny")


def _split(directory: Path) -> Tensors:
    """Turn the single file into two shards with an index; return the weights."""
    whole = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    places = {name: SHARDS[place % 2] for place, name in enumerate(sorted(whole))}
    for shard in SHARDS:
        own = {name: whole[name].clone() for name, place in places.items() if place == shard}
        save_file(own, directory / shard)
    told = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(told))
    return whole


def test_shards_give_the_same_base_as_one_file(directory: Path, tmp_path: Path) -> None:
    """The digest is of the weights, however they are cut into files."""
    one = load_base(directory, cache_dir=tmp_path / "cache")
    whole = _split(directory)
    two = load_base(directory, cache_dir=tmp_path / "cache")
    assert two.digest == one.digest
    read = two.weights()
    assert list(read) == sorted(whole)
    assert all(torch.equal(read[name], whole[name].bfloat16()) for name in whole)


def test_the_serving_weights_are_made_one_at_a_time(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 70B checkpoint does not fit into memory: no second weight is made before one is written."""
    base = load_base(directory, cache_dir=tmp_path / "cache")
    alive, most = set[int](), 0
    made = ServedTensors.__getitem__

    class Counted(torch.Tensor):
        def __del__(self) -> None:
            alive.discard(id(self))

    def counted(self: ServedTensors, name: str) -> torch.Tensor:
        nonlocal most
        tensor = made(self, name).as_subclass(Counted)
        alive.add(id(tensor))
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(ServedTensors, "__getitem__", counted)
    served = serving_weights(base)
    assert len(served) == len(base.shape.tensors()) and most <= 2


def _without(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        del tensors[name]
        save_file(tensors, directory / "model.safetensors")

    return change


def _with(**more: torch.Tensor) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        save_file(tensors | more, directory / "model.safetensors")

    return change


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def _wrong_shard(directory: Path) -> None:
    _split(directory)
    (directory / SHARDS[1]).write_bytes((directory / SHARDS[0]).read_bytes())


def _cut(directory: Path) -> None:
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _lost_shard(directory: Path) -> None:
    _split(directory)
    (directory / SHARDS[1]).unlink()


def _index(text: str) -> Callable[[Path], None]:
    return lambda directory: (
        (directory / "model.safetensors.index.json").write_text(text),
        None,
    )[1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("model.norm.weight"), "model.norm.weight is missing"),
        (_with(**{"model.norm.weight": torch.ones(65)}), r"has shape \[65\]"),
        (_with(**{"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}), "not describe"),
        (_pickled, "pickles only.*pytorch_model.bin"),
        (_wrong_shard, "two shards have"),
        (_cut, "cannot be read as safetensors"),
        (_lost_shard, "has no model-00002"),
        (_index("{"), "cannot be read as an index"),
        (_index('{"weight_map": {"a": "../../etc/passwd"}}'), "outside its directory"),
        (_index('{"weight_map": {"a": 7}}'), "outside its directory"),
        (_index('{"weight_map": []}'), "cannot be read as an index"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    directory: Path, change: Callable[[Path], None], says: str
) -> None:
    shape = read_shape(directory)
    change(directory)
    with pytest.raises(ModelUnavailable, match=says):
        CheckpointTensors(directory, shape)


def test_what_old_checkpoints_store_besides_is_not_read(directory: Path) -> None:
    """A second copy of a tied head, and frequencies that config.json determines."""
    shape = read_shape(directory)
    head, name = torch.ones(259, 64), "model.layers.0.self_attn.rotary_emb.inv_freq"
    _with(**{"lm_head.weight": head, name: torch.ones(8)})(directory)
    assert set(CheckpointTensors(directory, shape)) == set(shape.tensors())
