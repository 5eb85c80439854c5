"""Read, check and write adapter files: LoRA weights in one safetensors file.

Tensor names are PEFT's: ``base_model.model.<module>.lora_A.weight`` (rank, in) and
``lora_B.weight`` (out, rank). Metadata: ``lora_alpha``, ``rank``, ``base_model`` (hex base
digest), optionally ``use_rslora``. A file of another program may lack them. Then an
adapter_config.json beside it must give ``lora_alpha`` and ``r``, and contain only members that
``peft_config`` understands.
Invariant: every name, shape and value that ``read_adapter`` returns fits the base model.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.peft_config import read_config
from viz.basemodel.safetensor_file import (
    DTYPE_BYTES,
    MAX_HEADER_BYTES,
    NotSafetensors,
    TensorEntry,
    parse_header,
    write_file,
)
from viz.basemodel.shape import DecoderShape
from viz.domain.units import Hash32
from viz.errors import InvalidAdapterFile

if TYPE_CHECKING:
    import torch

MAX_RANK: Final = 64
MAX_SCALING: Final = 64.0
_PEFT_NAME: Final = "adapter_model.safetensors"
_MAX_CONFIG_BYTES: Final = 1 << 20
_PREFIX: Final = "base_model.model."
_NAME: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """The settings of a checked adapter file; ``rank`` is the largest rank of its modules."""

    rank: int
    alpha: float
    rslora: bool
    base: Hash32 | None

    def scaling(self, rank: int) -> float:
        """Return the factor of B @ A for a module of rank ``rank``.

        Source: LoRA; rsLoRA, arXiv 2312.03732.
        """
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """A loaded adapter: module -> (A (rank, in), B (out, rank)) in the stored dtype, and header."""

    header: AdapterHeader
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def read_adapter(
    path: Path, shape: DecoderShape, base: Hash32 | None = None, *, max_rank: int = MAX_RANK
) -> AdapterWeights:
    """Check and load an adapter file; its modules must fit ``shape``.

    Raises InvalidAdapterFile with one line: malformed file, wrong base, unknown or missing
    tensors, wrong shapes or dtype, a rank above the bound, or a value that is not finite.
    """
    import torch

    try:
        with path.open("rb") as file:
            # The header is checked before the body is read, so that a bad file costs little.
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            head += file.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
            layout, header = _checked(path, head, size, shape, base, max_rank=max_rank)
            if hasattr(os, "posix_fadvise"):  # the whole file is needed: start reading ahead
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            body = torch.empty(size - layout.data_start, dtype=torch.uint8)
            file.seek(layout.data_start)
            complete = file.readinto(body.numpy().data) == len(body)
    except OSError as error:
        raise InvalidAdapterFile(f"{path.name} cannot be read: {error.strerror}") from error
    if not complete:
        raise InvalidAdapterFile(f"{path.name} changed while it was read: try again")
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    # One view of the body for each dtype, and offsets into it: creating hundreds of separate
    # tensors takes longer than reading the file.
    views = {
        name: body[: len(body) // DTYPE_BYTES[name] * DTYPE_BYTES[name]].view(dtypes[name])
        for name in {entry.dtype for pair in layout.pairs.values() for entry in pair}
    }

    def tensor(entry: TensorEntry) -> torch.Tensor:
        start = entry.start // DTYPE_BYTES[entry.dtype]
        return views[entry.dtype].as_strided(entry.shape, (entry.shape[1], 1), start)

    modules = {name: (tensor(a), tensor(b)) for name, (a, b) in layout.pairs.items()}
    whole = len(views) == 1 and all(_is_finite(view) for view in views.values())
    for name, pair in modules.items():
        if not whole and not all(_is_finite(part) for part in pair):
            raise InvalidAdapterFile(f"{path.name}: module {name} holds NaN or infinity")
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
    """Write an adapter with PEFT's tensor names; return the digest of the file.

    The same tensors and arguments always give the same bytes.
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
    # aminmax is one pass without a tensor of flags (0.4 ms instead of 8 ms for 10 MB). If a value
    # is NaN, both results are NaN.
    return all(math.isfinite(bound) for bound in tensor.aminmax())


@dataclass(frozen=True, slots=True)
class _AdapterLayout:
    """The offsets of each module's A and B in a checked file, its largest rank and metadata."""

    pairs: Mapping[str, tuple[TensorEntry, TensorEntry]]
    rank: int
    metadata: Mapping[str, str]
    data_start: int


def _checked(
    path: Path,
    head: bytes,
    size: int,
    shape: DecoderShape,
    base: Hash32 | None,
    *,
    max_rank: int,
) -> tuple[_AdapterLayout, AdapterHeader]:
    try:
        layout = _layout(head, size, shape, max_rank)
    except NotSafetensors as error:
        raise InvalidAdapterFile(f"{path.name}: {error}") from error
    header = _header(path, layout.metadata, layout.rank)
    if base is not None and header.base is not None and header.base != base:
        raise InvalidAdapterFile(
            f"{path.name} was trained on base {header.base.hex()[:16]}, this is {base.hex()[:16]}"
        )
    return layout, header


# Adapters that were trained with the same settings have identical headers. The cache avoids
# checking their 420 entries again.
@lru_cache(maxsize=16)
def _layout(head: bytes, size: int, shape: DecoderShape, max_rank: int) -> _AdapterLayout:
    """Check the header of a file of ``size`` bytes. Raises NotSafetensors."""
    container = parse_header(head, size)
    fits = dict(shape.modules())
    found: dict[str, dict[str, TensorEntry]] = {}
    rank = 0
    for name, entry in container.entries.items():
        match = _NAME.fullmatch(name)
        size_of = fits.get(match[1]) if match else None
        if match is None or size_of is None:
            raise NotSafetensors(f"tensor {name[:120]!r} is not a LoRA weight of this base")
        out, into = size_of
        own = entry.shape[0 if match[2] == "A" else -1] if len(entry.shape) == 2 else 0
        wanted = (own, into) if match[2] == "A" else (out, own)
        if entry.shape != wanted or own < 1:
            raise NotSafetensors(
                f"tensor {name} has shape {list(entry.shape)}, which does not fit a "
                f"layer of {out} x {into}"
            )
        if own > max_rank:
            raise NotSafetensors(f"{name} has rank {own}; at most {max_rank} is allowed")
        if entry.start % DTYPE_BYTES[entry.dtype]:
            raise NotSafetensors(f"tensor {name} is not aligned to its dtype")
        rank = max(rank, own)
        found.setdefault(match[1], {})[match[2]] = entry
    for module, pair in found.items():
        if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise NotSafetensors(f"{module} lacks a matching pair of A and B")
    if not found:
        raise NotSafetensors("the file holds no LoRA weights")
    pairs = {module: (pair["A"], pair["B"]) for module, pair in found.items()}
    return _AdapterLayout(pairs, rank, container.metadata, container.data_start)


def _header(path: Path, metadata: Mapping[str, str], rank: int) -> AdapterHeader:
    said: dict[str, Any] = dict(metadata)
    beside = path.with_name("adapter_config.json")
    try:
        # If both files have PEFT's names, the config belongs to this file and is checked too, even
        # if the file has its own metadata.
        if "lora_alpha" not in said or (path.name == _PEFT_NAME and beside.is_file()):
            if not beside.is_file() or beside.stat().st_size > _MAX_CONFIG_BYTES:
                raise InvalidAdapterFile(
                    f"{path.name} has no lora_alpha: put its adapter_config.json beside it"
                )
            told = read_config(beside.read_bytes(), beside.name)
            if float(said.get("lora_alpha", told["lora_alpha"])) != told["lora_alpha"]:
                raise InvalidAdapterFile(f"{path.name} and {beside.name} differ on lora_alpha")
            said = told | said
        alpha = float(said["lora_alpha"])
        base = bytes.fromhex(str(said.get("base_model", "")).removeprefix("0x"))
        claimed = int(said.get("rank", rank))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidAdapterFile(f"{path.name}: its metadata cannot be read: {error}") from error
    if claimed != rank:
        raise InvalidAdapterFile(
            f"{path.name}: its metadata says rank {claimed}, but its tensors have rank {rank}"
        )
    if not math.isfinite(alpha) or not 0 < alpha <= MAX_SCALING * rank:
        raise InvalidAdapterFile(f"{path.name}: lora_alpha {alpha} is out of bounds")
    if len(base) not in (0, 32):
        raise InvalidAdapterFile(f"{path.name}: its base_model is not a 32-byte digest")
    rslora = said.get("use_rslora") == "true"
    return AdapterHeader(rank, alpha, rslora, Hash32(base) if base else None)
