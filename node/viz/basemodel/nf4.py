"""Quantise the base weights to NF4, and make the dequantised weights that serving computes with.

Training and serving compute the same function: training with dequantise(NF4(w)) inside
bitsandbytes, serving with the same values, stored once as bf16. Invariant: for every quantised
module ``serving_weights`` is bit for bit what bitsandbytes dequantises during training under the
same policy; every other weight is the base's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viz.basemodel.policy import QuantisationPolicy
from viz.basemodel.safetensor_file import StoredTensors, file_digest, write_file
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase


def quantise(weight: torch.Tensor, policy: QuantisationPolicy) -> tuple[torch.Tensor, Any]:
    """Quantise a bf16 weight (out, in) to NF4; return (packed uint8, bitsandbytes QuantState)."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight.contiguous(),
        blocksize=policy.block_size,
        compress_statistics=policy.double_quantised,
        quant_type="nf4",
    )
    return packed, state


def dequantise(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """Dequantise to the weight that bitsandbytes computes with, in the original dtype."""
    from bitsandbytes import functional

    restored: torch.Tensor = functional.dequantize_4bit(packed, state)
    return restored


def serving_weights(
    base: LoadedBase, *, report: Callable[[float], None] = lambda part: None
) -> Mapping[str, torch.Tensor]:
    """Return every weight in bf16 as serving uses it, by its Hugging Face name.

    They are computed once for each base digest and stored with their sha256, because quantising
    takes seconds and importing bitsandbytes longer. ``report`` gets the finished part, 0 to 1. A
    weight is read from disk at each look-up, so look up each only once. Raises ModelUnavailable.
    """
    path = base.serving_file
    record = path.with_suffix(".json")
    try:
        if path.exists() and json.loads(record.read_text())["sha256"] == file_digest(path).hex():
            return StoredTensors(path)
    except (OSError, ValueError, KeyError, TypeError):
        # A damaged file is made again from the base weights.
        path.unlink(missing_ok=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = write_file(
            path,
            ServedTensors(base, report),
            {"base_model": base.digest.hex()},
            bf16_sizes=base.shape.tensors(),
        )
        _write_record(record, digest.hex())
        return StoredTensors(path)
    except OSError as error:
        raise ModelUnavailable(
            f"the serving weights cannot be written to {path.parent}: {error}"
        ) from error


class ServedTensors(Mapping[str, "torch.Tensor"]):
    """Every weight in bf16 as serving uses it, computed from the base's own at each lookup.

    ``report`` gets the fraction of names that were looked up, 0 to 1.
    """

    def __init__(self, base: LoadedBase, report: Callable[[float], None]) -> None:
        self._weights, self._policy, self._report = base.weights(), base.policy, report
        self._quantised = {
            f"{module}.weight"
            for module, _ in base.shape.modules()
            if base.policy.quantises(module)
        }
        self._done = 0

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = self._weights[name]
        if name in self._quantised:
            weight = dequantise(*quantise(weight, self._policy))
        self._done += 1
        self._report(min(1.0, self._done / len(self._weights)))
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _write_record(record: Path, digest: str) -> None:
    partial = record.with_suffix(".json.partial")
    partial.write_text(json.dumps({"sha256": digest}))
    partial.replace(record)
