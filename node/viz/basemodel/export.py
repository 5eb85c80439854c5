"""Write the checkpoint that another server loads: the weights that adapters were trained against.

Training computes with dequantise(NF4(w)), not with w. A server that loaded the original checkpoint
would compute a different model. Owns the exported folder: Hugging Face's layout, and
``viz-base.json`` with the base's digest, the dtype and the sha256 of every file of weights.
Invariants: each weight is bit for bit that of ``serving_weights``; the folder appears complete or
not at all; at most one shard is in memory.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.safetensor_file import write_file
from viz.basemodel.source import LoadedBase
from viz.errors import InvalidRequest, ModelUnavailable

ExportDtype = Literal["bfloat16", "float32"]
RECORD: Final = "viz-base.json"
SHARD_BYTES: Final = 2 << 30
_BYTES: Final = {"bfloat16": 2, "float32": 4}
_INDEX: Final = "model.safetensors.index.json"
# The files besides the weights that a server reads; missing ones are left out.
_COPIED: Final = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class ExportedBase:
    """An exported checkpoint: its folder, its files of weights, and their size in bytes."""

    directory: Path
    files: tuple[str, ...]
    weight_bytes: int
    dtype: ExportDtype


def export_base(
    base: LoadedBase,
    target: Path,
    *,
    dtype: ExportDtype = "bfloat16",
    shard_bytes: int = SHARD_BYTES,
    report: Callable[[float], None] = lambda part: None,
) -> ExportedBase:
    """Write the checkpoint of dequantise(NF4(w)) to the new folder ``target``.

    All weights are exact in bfloat16, so that both values of ``dtype`` hold the same numbers.
    ``report`` gets the finished fraction, 0 to 1. Blocks. Raises InvalidRequest if the folder is
    not empty, ModelUnavailable if it cannot be written.
    """
    _require_empty(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ModelUnavailable(f"{target} cannot be written: {error}") from error
    try:
        # Servers often run as another user; the weights are no secret.
        partial.chmod(0o755)
        files, weight_bytes = _write(base, partial, dtype, shard_bytes, report)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise ModelUnavailable(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportedBase(target, files, weight_bytes, dtype)


def _write(
    base: LoadedBase,
    folder: Path,
    dtype: ExportDtype,
    shard_bytes: int,
    report: Callable[[float], None],
) -> tuple[tuple[str, ...], int]:
    import torch

    weights = serving_weights(base)
    shapes = base.shape.tensors()
    sizes = {name: math.prod(shapes[name]) * _BYTES[dtype] for name in sorted(shapes)}
    shards = list(_shards(sizes, shard_bytes))
    total, done = sum(sizes.values()), 0
    places: dict[str, str] = {}
    digests: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = _shard_name(number, len(shards))
        held = {name: weights[name].to(getattr(torch, dtype)) for name in names}
        digests[file] = write_file(folder / file, held, {"format": "pt"}).hex()
        places |= dict.fromkeys(names, file)
        done += sum(sizes[name] for name in names)
        report(done / total)
    if len(shards) > 1:
        _write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    _write_json(folder / "config.json", _config(base.directory, dtype))
    for name in _COPIED:
        if (base.directory / name).is_file():
            shutil.copyfile(base.directory / name, folder / name)
    record = {
        "base": base.model.name,
        "digest": f"0x{base.digest.hex()}",
        "quantisation": json.loads(base.policy.canonical()),
        "dtype": dtype,
        "sha256": digests,
    }
    _write_json(folder / RECORD, record)
    for path in folder.iterdir():
        path.chmod(0o644)
    return tuple(digests), total


def _shards(sizes: Mapping[str, int], shard_bytes: int) -> Iterator[Sequence[str]]:
    """Yield the names of each shard, in order; a weight above the limit gets its own shard."""
    names: list[str] = []
    held = 0
    for name, size in sizes.items():
        if names and held + size > shard_bytes:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _shard_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _config(directory: Path, dtype: ExportDtype) -> dict[str, Any]:
    """Return the base's config.json with the exported dtype and without quantisation."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    config.pop("quantization_config", None)
    # transformers reads the first name, older servers the second.
    return config | {"dtype": dtype, "torch_dtype": dtype}


def _require_empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidRequest(f"{target} exists and is not an empty folder: name a new one")
    above = target.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InvalidRequest(f"{above} is not a folder that you may write to: name another one")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
