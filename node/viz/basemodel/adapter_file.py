"""The adapter file: LoRA weights in one safetensors file, checked before anything uses them.

Tensor names are PEFT's: ``base_model.model.<module>.lora_A.weight`` (rank, in) and
``lora_B.weight`` (out, rank). Metadata: ``lora_alpha``, ``rank``, ``base_model`` (hex base
digest), optionally ``use_rslora``. A file from elsewhere may lack them; then adapter_config.json
beside it must say ``lora_alpha`` and ``r``. Owns format and checks; does not know pools, manifests
or the chain.
Invariant: what ``read_adapter`` returns fits the base in every name, shape and value.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from viz.basemodel.safetensor_file import (
    DTYPE_BYTES,
    MAX_HEADER_BYTES,
    Header,
    NotSafetensors,
    parse_header,
    write_file,
)
from viz.basemodel.shape import LlamaShape
from viz.domain.units import Hash32
from viz.errors import InvalidAdapterFile

if TYPE_CHECKING:
    import torch

MAX_RANK: Final = 64
MAX_SCALING: Final = 64.0
_PREFIX: Final = "base_model.model."
_NAME: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """What a checked adapter file says of itself; ``rank`` is the largest of its modules."""

    rank: int
    alpha: float
    rslora: bool
    base: Hash32 | None

    def scaling(self, rank: int) -> float:
        """Return the factor of B @ A for a module of that rank (LoRA; rsLoRA, arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """A loaded adapter: module -> (A (rank, in), B (out, rank), both as stored), and its header."""

    header: AdapterHeader
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def check_adapter(
    path: Path, shape: LlamaShape, base: Hash32 | None = None, *, max_rank: int = MAX_RANK
) -> AdapterHeader:
    """Check all but the values, reading only the header. Raises InvalidAdapterFile."""
    try:
        with path.open("rb") as file:
            head, size = _head(file)
    except OSError as error:
        raise InvalidAdapterFile(f"{path.name} cannot be read: {error.strerror}") from error
    return _checked(path, head, size, shape, base, max_rank=max_rank)[1]


def read_adapter(
    path: Path, shape: LlamaShape, base: Hash32 | None = None, *, max_rank: int = MAX_RANK
) -> AdapterWeights:
    """Check and load an adapter file whose modules must fit ``shape``.

    Raises InvalidAdapterFile with one line: malformed container, wrong base, unknown or missing
    tensors, wrong shapes or dtype, a rank over the bound, a value that is not finite.
    """
    import torch

    try:
        with path.open("rb") as file:
            # The header is judged before the body is read: a huge or false file costs nothing.
            head, size = _head(file)
            container, header = _checked(path, head, size, shape, base, max_rank=max_rank)
            body = bytearray(size - container.data_start)
            file.seek(container.data_start)
            complete = file.readinto(body) == len(body)
    except OSError as error:
        raise InvalidAdapterFile(f"{path.name} cannot be read: {error.strerror}") from error
    if not complete:
        raise InvalidAdapterFile(f"{path.name} changed while it was read")
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    # One view a dtype, sliced: hundreds of small tensors made one by one cost more than reading.
    views = {
        name: torch.frombuffer(body, dtype=dtypes[name], count=len(body) // DTYPE_BYTES[name])
        for name in {entry.dtype for entry in container.entries.values()}
    }
    loaded: dict[str, torch.Tensor] = {}
    for name, entry in container.entries.items():
        width = DTYPE_BYTES[entry.dtype]
        if entry.start % width:
            raise InvalidAdapterFile(f"{path.name}: tensor {name} is not aligned to its dtype")
        flat = views[entry.dtype][entry.start // width : entry.end // width]
        loaded[name] = flat.view(entry.shape)
    whole = len(views) == 1 and all(_is_finite(view) for view in views.values())
    for name, tensor in loaded.items():
        if not whole and not _is_finite(tensor):
            raise InvalidAdapterFile(f"{path.name}: tensor {name} holds NaN or infinity")
    modules = {
        name[len(_PREFIX) : -len(".lora_A.weight")]: (
            tensor,
            loaded[name.replace(".lora_A.", ".lora_B.")],
        )
        for name, tensor in loaded.items()
        if name.endswith(".lora_A.weight")
    }
    return AdapterWeights(header, modules)


def write_adapter(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    rank: int,
    alpha: float,
    base: Hash32,
    rslora: bool = False,
) -> Hash32:
    """Write an adapter under PEFT's tensor names; return the digest of the file.

    Deterministic: equal tensors and arguments give equal bytes.
    """
    metadata = {
        "format": "pt",
        "rank": str(rank),
        "lora_alpha": repr(float(alpha)),
        "base_model": base.hex(),
    }
    if rslora:
        metadata["use_rslora"] = "true"
    return write_file(path, tensors, metadata)


def _is_finite(tensor: torch.Tensor) -> bool:
    # One pass without a tensor of flags (8 ms against 0.4 for 10 MB); NaN is both bounds' result.
    return all(math.isfinite(bound) for bound in tensor.aminmax())


def _head(file: BinaryIO) -> tuple[bytes, int]:
    """Return a file's header bytes, never more than the bound, and the file's size."""
    head = file.read(8)
    head += file.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
    return head, os.fstat(file.fileno()).st_size


def _checked(
    path: Path,
    data: bytes,
    size: int,
    shape: LlamaShape,
    base: Hash32 | None,
    *,
    max_rank: int,
) -> tuple[Header, AdapterHeader]:
    try:
        container = parse_header(data, size)
    except NotSafetensors as error:
        raise InvalidAdapterFile(f"{path.name}: {error}") from error
    fits = dict(shape.modules())
    ranks: dict[str, dict[str, int]] = {}
    for name, entry in container.entries.items():
        match = _NAME.fullmatch(name)
        size_of = fits.get(match[1]) if match else None
        if match is None or size_of is None:
            raise InvalidAdapterFile(f"{path.name}: tensor {name[:120]!r} is no LoRA of this base")
        out, into = size_of
        rank = entry.shape[0 if match[2] == "A" else -1] if len(entry.shape) == 2 else 0
        wanted = (rank, into) if match[2] == "A" else (out, rank)
        if entry.shape != wanted or rank < 1:
            raise InvalidAdapterFile(
                f"{path.name}: tensor {name} has shape {list(entry.shape)}, which does not fit a "
                f"layer of {out} x {into}"
            )
        if rank > max_rank:
            raise InvalidAdapterFile(f"{path.name}: {name} has rank {rank}; at most {max_rank}")
        ranks.setdefault(match[1], {})[match[2]] = rank
    for module, found in ranks.items():
        if len(found) != 2 or found["A"] != found["B"]:
            raise InvalidAdapterFile(f"{path.name}: {module} lacks a matching pair of A and B")
    if not ranks:
        raise InvalidAdapterFile(f"{path.name} holds no LoRA weights")
    header = _header(path, container.metadata, max(found["A"] for found in ranks.values()))
    if base is not None and header.base is not None and header.base != base:
        raise InvalidAdapterFile(
            f"{path.name} was trained on base {header.base.hex()[:16]}, this is {base.hex()[:16]}"
        )
    return container, header


def _header(path: Path, metadata: Mapping[str, str], rank: int) -> AdapterHeader:
    said: dict[str, Any] = dict(metadata)
    beside = path.with_name("adapter_config.json")
    try:
        if "lora_alpha" not in said:
            if not beside.is_file() or beside.stat().st_size > 1 << 20:
                raise InvalidAdapterFile(f"{path.name} does not say its lora_alpha")
            config = json.loads(beside.read_text("utf-8"))
            if config.get("rank_pattern") or config.get("alpha_pattern") or config.get("use_dora"):
                raise InvalidAdapterFile(f"{beside.name}: patterns and DoRA are not supported")
            said = {"lora_alpha": config["lora_alpha"], "rank": config["r"]}
            said["use_rslora"] = "true" if config.get("use_rslora") else "false"
        alpha = float(said["lora_alpha"])
        base = bytes.fromhex(str(said.get("base_model", "")).removeprefix("0x"))
        claimed = int(said.get("rank", rank))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidAdapterFile(f"{path.name}: its metadata cannot be read: {error}") from error
    if claimed != rank:
        raise InvalidAdapterFile(f"{path.name} says rank {claimed} but holds rank {rank}")
    if not math.isfinite(alpha) or not 0 < alpha <= MAX_SCALING * rank:
        raise InvalidAdapterFile(f"{path.name}: lora_alpha {alpha} is out of bounds")
    if len(base) not in (0, 32):
        raise InvalidAdapterFile(f"{path.name}: its base_model is not a 32-byte digest")
    rslora = said.get("use_rslora") == "true"
    return AdapterHeader(rank, alpha, rslora, Hash32(base) if base else None)
