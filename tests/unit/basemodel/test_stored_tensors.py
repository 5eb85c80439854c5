"""Tensors that are read one by one from the file that ``write_file`` wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from viz.basemodel.safetensor_file import NotSafetensors, StoredTensors, write_file

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.randn(4).bfloat16(),
    "empty": torch.empty(0, 2),
}


def test_each_tensor_is_what_was_written(tmp_path: Path) -> None:
    """The served weights are the quantised ones, bit for bit, and own their memory."""
    path = tmp_path / "t.safetensors"
    write_file(path, TENSORS, {"made": "here"})
    stored = StoredTensors(path)
    assert sorted(stored) == sorted(TENSORS) and len(stored) == 3
    for name, tensor in TENSORS.items():
        assert stored[name].dtype is tensor.dtype and torch.equal(stored[name], tensor)
    stored["a"][0, 0] = 9
    assert torch.equal(stored["a"], TENSORS["a"])
    with pytest.raises(KeyError):
        stored["none"]


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    """A cut file must not become weights of zeros, whether it is cut before or after opening."""
    path = tmp_path / "t.safetensors"
    write_file(path, TENSORS, {})
    stored, whole = StoredTensors(path), path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(NotSafetensors):
        StoredTensors(path)
    with pytest.raises(NotSafetensors, match="cut short"):
        stored["b"]
