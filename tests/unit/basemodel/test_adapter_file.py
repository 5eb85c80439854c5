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


def _beside(base: LoadedBase, folder: Path, **config: Any) -> Path:
    """Write an adapter as PEFT saves it, with these members in its config."""
    from safetensors.torch import save_file

    path = folder / "adapter_model.safetensors"
    save_file(random_adapter(base.shape, rank=4, seed=1), str(path))
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 16} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return path


def test_what_peft_writes_for_a_plain_lora_is_taken(base: LoadedBase, tmp_path: Path) -> None:
    """Protects the ordinary user of PEFT: every member of its default config is understood."""
    from peft import LoraConfig

    config = LoraConfig(
        r=4,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["q_proj"],
        task_type="CAUSAL_LM",
        init_lora_weights="gaussian",
        base_model_name_or_path="somebody/base",
    ).to_dict()
    told = {name: str(v) if hasattr(v, "value") else v for name, v in config.items()}
    told |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    assert read_adapter(_beside(base, tmp_path, **told), base.shape).header.scaling(4) == 4.0
    rslora = _beside(base, tmp_path, **told | {"use_rslora": True})
    assert read_adapter(rslora, base.shape).header.scaling(4) == 8.0


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "of tomorrow"),
        ("peft_type", "ADALORA"),
        ("peft_type", None),
        ("task_type", "SEQ_CLS"),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("use_dora", True),
        ("use_rslora", "true"),
        ("use_rslora", 1),
        ("use_qalora", True),
        ("lora_bias", True),
        ("bias", "all"),
        ("fan_in_fan_out", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts"]),
        ("alora_invocation_tokens", [5]),
        ("loftq_config", {"loftq_bits": 4}),
        ("a_member_of_tomorrow", 0.5),
        ("a_switch_of_tomorrow", True),
        ("r", "4"),
        ("lora_alpha", True),
    ],
)
def test_whatever_could_change_the_function_is_refused(
    base: LoadedBase, tmp_path: Path, member: str, value: object
) -> None:
    """The same tensors would compute another adapter than was trained, and be sold as it."""
    path = _beside(base, tmp_path, **{member: value})
    with pytest.raises(InvalidAdapterFile, match=member):
        read_adapter(path, base.shape)


def test_a_config_counts_beside_a_file_that_speaks_for_itself(
    base: LoadedBase, tmp_path: Path
) -> None:
    """Metadata in the file must not hide what PEFT's config says of how it was begun."""
    path = tmp_path / "adapter_model.safetensors"
    written(base, path, random_adapter(base.shape, rank=4, seed=1))
    config = tmp_path / "adapter_config.json"
    config.write_text('{"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa"}')
    with pytest.raises(InvalidAdapterFile, match="pissa"):
        read_adapter(path, base.shape)
    config.write_text('{"r": 4, "lora_alpha": 99}')
    with pytest.raises(InvalidAdapterFile, match="differ on lora_alpha"):
        read_adapter(path, base.shape)
    config.write_text('{"r": 4, "lora_alpha": 8, "lora_alpha": 9}')
    with pytest.raises(InvalidAdapterFile, match="is there twice"):
        read_adapter(path, base.shape)


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
    "wrong size": (header({FIRST: entry(0, 8)}, bytes(8)), "has offsets that"),
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
    "extra tensor": (
        changed(lambda t: t.update({"lm_head.weight": t[FIRST]})),
        "not a LoRA weight of this",
    ),
    "unknown layer": (
        changed(lambda t: t.update({FIRST.replace("layers.0", "layers.9"): t[FIRST]})),
        "not a LoRA weight of this",
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
