"""What an adapter file may be: the good one loads, every bad one is refused with its reason."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny_base import make_tiny_base, random_adapter

from viz.basemodel.adapter_file import read_adapter, write_adapter
from viz.basemodel.safetensor_file import MAX_HEADER_BYTES, file_digest
from viz.basemodel.source import LoadedBase
from viz.domain.units import Hash32
from viz.errors import InvalidAdapterFile

Tensors = dict[str, Any]
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


def written(base: LoadedBase, path: Path, tensors: Tensors, *, rank: int = 4) -> Path:
    write_adapter(path, tensors, rank=rank, alpha=8.0, base=base.digest)
    return path


def test_written_adapter_reads_back_and_is_deterministic(base: LoadedBase, tmp_path: Path) -> None:
    """Equal tensors give equal bytes; PEFT's own reader takes the file; scaling is alpha / rank."""
    import torch
    from safetensors.torch import load_file

    tensors = random_adapter(base.shape, rank=4, seed=1)
    path = written(base, tmp_path / "a.safetensors", tensors)
    digest = write_adapter(
        tmp_path / "b.safetensors",
        dict(reversed(tensors.items())),
        rank=4,
        alpha=8.0,
        base=base.digest,
    )
    assert file_digest(path) == digest
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(str(path)).items())
    read = read_adapter(path, base.shape, base.digest)
    assert read.header.rank == 4
    assert read.header.scaling(4) == 2.0
    assert torch.equal(read.modules["model.layers.0.self_attn.q_proj"][0], tensors[FIRST])


def test_peft_config_beside_the_file_gives_alpha(base: LoadedBase, tmp_path: Path) -> None:
    """A file saved by PEFT itself is usable with its adapter_config.json, and only with it."""
    from safetensors.torch import save_file

    path = tmp_path / "adapter_model.safetensors"
    save_file(random_adapter(base.shape, rank=4, seed=1), str(path))
    with pytest.raises(InvalidAdapterFile, match="lora_alpha"):
        read_adapter(path, base.shape, base.digest)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16}))
    assert read_adapter(path, base.shape, base.digest).header.scaling(4) == 4.0


def changed(change: Callable[[Tensors], Any]) -> Callable[[LoadedBase, Path], None]:
    """Return a maker of a file whose tensors were changed in place."""

    def make(base: LoadedBase, path: Path) -> None:
        tensors: Tensors = random_adapter(base.shape, rank=4, seed=1)
        change(tensors)
        written(base, path, tensors)

    return make


def raw(data: bytes) -> Callable[[LoadedBase, Path], None]:
    def make(_base: LoadedBase, path: Path) -> None:
        path.write_bytes(data)

    return make


def header(text: object, body: bytes = b"") -> Callable[[LoadedBase, Path], None]:
    encoded = text if isinstance(text, bytes) else json.dumps(text).encode()
    return raw(len(encoded).to_bytes(8, "little") + encoded + body)


def entry(start: int, end: int, **more: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4, 64], "data_offsets": [start, end], **more}


def _for_another_base(base: LoadedBase, path: Path) -> None:
    tensors = random_adapter(base.shape, rank=4, seed=1)
    write_adapter(path, tensors, rank=4, alpha=8.0, base=Hash32(b"\x01" * 32))


def _trailing_bytes(base: LoadedBase, path: Path) -> None:
    written(base, path, random_adapter(base.shape, rank=4, seed=1))
    with path.open("ab") as file:
        file.write(b"hidden")


def _poison(value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[FIRST][1, 3] = value

    return change


def _high_rank(base: LoadedBase, path: Path) -> None:
    written(base, path, random_adapter(base.shape, rank=65, seed=1), rank=65)


def _absurd_alpha(base: LoadedBase, path: Path) -> None:
    tensors = random_adapter(base.shape, rank=4, seed=1)
    write_adapter(path, tensors, rank=4, alpha=1e30, base=base.digest)


BAD: dict[str, tuple[Callable[[LoadedBase, Path], None], str]] = {
    "missing": (lambda _base, _path: None, "cannot be read"),
    "empty": (raw(b""), "shorter"),
    "pickle": (raw(pickle.dumps({"lora": [1.0] * 50})), "pickle"),
    "zip": (raw(b"PK\x03\x04" + bytes(100)), "pickle or a zip"),
    "huge header": (raw((1 << 40).to_bytes(8, "little") + b"{}"), str(MAX_HEADER_BYTES)),
    "header past the end": (raw((500).to_bytes(8, "little") + b"{}"), "longer than the file"),
    "not JSON": (header(b"{nonsense"), "not JSON"),
    "deep JSON": (header(b"[" * 100_000), "not JSON"),
    "duplicate key": (header(b'{"a":1,"a":2}'), "not JSON"),
    "a list": (header([1, 2]), "not a JSON object"),
    "metadata of numbers": (header({"__metadata__": {"rank": 4}}), "map of strings"),
    "no tensors": (header({"__metadata__": {"lora_alpha": "1"}}), "no LoRA weights"),
    "malformed entry": (header({FIRST: {"dtype": "F32"}}), "malformed"),
    "negative shape": (header({FIRST: entry(0, 4, shape=[-1, -1])}, b"xxxx"), "malformed"),
    "wrong size": (header({FIRST: entry(0, 8)}, bytes(8)), "does not fill"),
    "gap": (header({FIRST: entry(8, 8 + 1024)}, bytes(1032)), "gap"),
    "overlap": (header({FIRST: entry(0, 1024), "b": entry(512, 1536)}, bytes(1536)), "overlaps"),
    "integers": (header({FIRST: entry(0, 2048, dtype="I64")}, bytes(2048)), "dtype"),
    "trailing bytes": (_trailing_bytes, "describes"),
    "other base": (_for_another_base, "was trained on base"),
    "rank": (_high_rank, "rank 65"),
    "alpha": (_absurd_alpha, "out of bounds"),
    "NaN": (changed(_poison(float("nan"))), "NaN"),
    "infinity": (changed(_poison(float("inf"))), "NaN"),
    "wrong shape": (changed(lambda t: t.update({FIRST: t[FIRST][:, :8]})), "does not fit"),
    "rank mismatch": (changed(lambda t: t.update({FIRST: t[FIRST][:2]})), "matching pair"),
    "lone A": (changed(lambda t: t.pop(FIRST.replace("_A", "_B"))), "matching pair"),
    "extra tensor": (changed(lambda t: t.update({"lm_head.weight": t[FIRST]})), "no LoRA of this"),
    "unknown layer": (
        changed(lambda t: t.update({FIRST.replace("layers.0", "layers.9"): t[FIRST]})),
        "no LoRA of this",
    ),
    "scalar": (changed(lambda t: t.update({FIRST: t[FIRST][0, 0]})), "does not fit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_with_its_reason(base: LoadedBase, tmp_path: Path, case: str) -> None:
    """Whatever is wrong, the file is refused in one line before anything uses it."""
    make, reason = BAD[case]
    path = tmp_path / "adapter.safetensors"
    make(base, path)
    with pytest.raises(InvalidAdapterFile) as caught:
        read_adapter(path, base.shape, base.digest)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
