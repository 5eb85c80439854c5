"""Read safetensors files strictly, and write them deterministically.

Owns the byte layout: u64 little-endian header length, JSON header, packed tensors
(https://github.com/huggingface/safetensors, "Format"). The library is not used for writing,
because its order of the metadata is not stable, and an adapter's digest must be. Reading also
checks what the library does not: a bounded header, unique names, no gaps, no overlaps, and nothing
after the last tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.domain.strict_json import load_json
from viz.domain.units import Hash32

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES: Final = 1 << 20
DTYPE_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


class NotSafetensors(ValueError):
    """The bytes are not a well-formed safetensors file; the message names the fault."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The dtype, shape and place of one tensor; offsets count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorHeader:
    """A checked header; ``data_start`` is the file offset of the first tensor."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_start: int


def parse_header(data: bytes | memoryview, size: int) -> SafetensorHeader:
    """Check the header of a file of ``size`` bytes that begins with ``data``.

    Raises NotSafetensors.
    """
    if len(data) < 8:
        raise NotSafetensors("the file is shorter than a safetensors header")
    if bytes(data[:2]) in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"):
        raise NotSafetensors("the file is a pickle or a zip archive, not safetensors")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise NotSafetensors(
            f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are allowed"
        )
    if 8 + length > min(size, len(data)):
        raise NotSafetensors("the header is longer than the file")
    try:
        raw = load_json(bytes(data[8 : 8 + length]), max_values=None, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise NotSafetensors(f"the header is not JSON: {type(error).__name__}") from error
    if not isinstance(raw, dict):
        raise NotSafetensors("the header is not a JSON object")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise NotSafetensors("the metadata is not a map of strings")
    entries = {name: _entry(name, value) for name, value in raw.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != position:
            raise NotSafetensors(f"tensor {name[:80]!r} leaves a gap or overlaps another")
        position = entry.end
    if 8 + length + position != size:
        raise NotSafetensors(
            f"the file has {size} bytes; its header describes {8 + length + position}"
        )
    return SafetensorHeader(entries, metadata, 8 + length)


def write_file(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    bf16_sizes: Mapping[str, tuple[int, ...]] | None = None,
) -> Hash32:
    """Write the tensors (sorted by name, C order) and return the file's sha256.

    The same tensors and metadata always give the same bytes. The file is written atomically. With
    ``bf16_sizes`` (the names and sizes of tensors that are all bf16), each tensor is looked up only
    once, when it is written, so that a mapping can compute them one at a time. Raises
    NotSafetensors if a tensor is not of the stated type and size.
    """
    import torch

    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    if bf16_sizes is None:
        told = {name: (names[each.dtype], tuple(each.shape)) for name, each in tensors.items()}
    else:
        told = {name: ("BF16", size) for name, size in bf16_sizes.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position, order = 0, sorted(told)
    for name in order:
        dtype, size = told[name]
        end = position + math.prod(size) * DTYPE_BYTES[dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(size),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    partial = path.with_name(f".{path.name}.{id(tensors):x}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in (len(text).to_bytes(8, "little"), text):
                file.write(chunk)
                digest.update(chunk)
            for name in order:
                flat = tensors[name].detach().cpu().contiguous().reshape(-1)
                if flat.numel() != math.prod(told[name][1]) or names[flat.dtype] != told[name][0]:
                    raise NotSafetensors(
                        f"tensor {name[:80]!r} differs from the stated type or size"
                    )
                raw = flat.view(torch.uint8).numpy().data
                file.write(raw)
                digest.update(raw)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return Hash32(digest.digest())


class StoredTensors(Mapping[str, "torch.Tensor"]):
    """The tensors of a file that ``write_file`` wrote; each is read at its look-up.

    So a reader needs memory for one tensor at a time, not for the whole file. Each look-up reads
    the file and returns a tensor that owns its memory. Raises NotSafetensors, and OSError if the
    file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            start = file.read(8)
            length = min(int.from_bytes(start, "little"), MAX_HEADER_BYTES)
            self._header = parse_header(start + file.read(length), path.stat().st_size)

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        entry = self._header.entries[name]
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[entry.dtype]
        raw = bytearray(entry.end - entry.start)
        if not raw:
            return torch.empty(entry.shape, dtype=dtype)
        with self._path.open("rb") as file:
            file.seek(self._header.data_start + entry.start)
            if file.readinto(raw) != len(raw):
                raise NotSafetensors(f"tensor {name[:80]!r} is cut short")
        return torch.frombuffer(raw, dtype=dtype).view(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._header.entries)

    def __len__(self) -> int:
        return len(self._header.entries)


def file_digest(path: Path) -> Hash32:
    """Return the sha256 of a file's bytes: an adapter's ``weightsDigest`` on chain."""
    with path.open("rb") as file:
        return Hash32(hashlib.file_digest(file, "sha256").digest())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _entry(name: str, value: Any) -> TensorEntry:
    try:
        dtype, shape = value["dtype"], value["shape"]
        start, end = value["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, start, end)) and len(value) == 3
    except (TypeError, KeyError, ValueError) as error:
        raise NotSafetensors(f"the header's entry {name[:80]!r} is malformed") from error
    if not sound or not isinstance(dtype, str):
        raise NotSafetensors(f"the header's entry {name[:80]!r} is malformed")
    width = DTYPE_BYTES.get(dtype)
    if width is None:
        raise NotSafetensors(f"tensor {name[:80]!r} has dtype {dtype[:20]!r}; use F32, F16 or BF16")
    if end - start != math.prod(shape) * width:
        raise NotSafetensors(f"tensor {name[:80]!r} has offsets that do not fit its shape")
    return TensorEntry(dtype, tuple(shape), start, end)
