"""Write adapters as PEFT folders for the servers to read.

Owns the shared folder: one subfolder per adapter, named by its id and the digest of its weights, so
that another file under the same id can never be mistaken for it. Invariants: a subfolder appears
complete or not at all; in exact arithmetic it computes the same as the adapter file. vLLM knows one
rank per adapter: if the modules' ranks differ, the smaller matrices are padded with zeros and B is
scaled, which changes no product.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viz.basemodel.adapter_file import (
    AdapterHeader,
    AdapterWeights,
    read_adapter,
    write_adapter,
)
from viz.basemodel.safetensor_file import file_digest, write_file
from viz.basemodel.source import LoadedBase
from viz.domain.units import BASE_MODEL, AdapterId, Hash32
from viz.errors import EngineError, InvalidAdapterFile

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SharedAdapter:
    """An adapter in the shared folder: its name at the servers, and its path there."""

    adapter_id: AdapterId
    digest: Hash32
    name: str
    folder: Path
    server_path: str
    weights: Path


class PeftFolder:
    """The shared folder; ``server_folder`` is its path at the servers if that differs."""

    def __init__(self, folder: Path, server_folder: str, base: LoadedBase, max_rank: int) -> None:
        self._folder, self._server_folder = folder.absolute(), server_folder.rstrip("/")
        self._base, self._max_rank = base, max_rank

    def put(self, adapter_id: AdapterId, weights: Path) -> SharedAdapter:
        """Check the file completely and write its folder. Blocks.

        Raises InvalidAdapterFile, and EngineError if the folder cannot be written.
        """
        adapter = read_adapter(weights, self._base.shape, self._base.digest)
        rank = adapter.header.rank
        if rank > self._max_rank:
            raise InvalidAdapterFile(
                f"{weights.name} has rank {rank}, and the servers accept at most {self._max_rank}: "
                "raise their --max-lora-rank and engine.upstream.max_rank"
            )
        digest = file_digest(weights)
        name = f"viz-{adapter_id}-{digest.hex()[:16]}"
        shared = SharedAdapter(
            adapter_id,
            digest,
            name,
            self._folder / name,
            f"{self._server_folder or self._folder}/{name}",
            weights,
        )
        try:
            self._write(shared, adapter)
        except OSError as error:
            raise EngineError(
                f"the adapter cannot be written to engine.upstream.folder {self._folder}: "
                f"{error.strerror or error}"
            ) from error
        return shared

    def put_neutral(self, file: Path) -> SharedAdapter:
        """Write the neutral adapter, which adds nothing, first to ``file``. Blocks.

        Requests for the base model use its name. Raises EngineError.
        """
        import torch

        module, (out, into) = next(iter(self._base.shape.modules()))
        stem = f"base_model.model.{module}"
        nothing = {
            f"{stem}.lora_A.weight": torch.zeros(1, into),
            f"{stem}.lora_B.weight": torch.zeros(out, 1),
        }
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_adapter(file, nothing, rank=1, alpha=1.0, base=self._base.digest)
        except OSError as error:
            raise EngineError(f"{file} cannot be written: {error.strerror or error}") from error
        return self.put(BASE_MODEL, file)

    def remove(self, shared: SharedAdapter) -> None:
        """Delete the adapter's folder if it exists. Blocks."""
        shutil.rmtree(shared.folder, ignore_errors=True)

    def _write(self, shared: SharedAdapter, adapter: AdapterWeights) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{shared.name}-", dir=self._folder))
        try:
            tensors: dict[str, torch.Tensor] = {}
            for module, pair in adapter.modules.items():
                stem = f"base_model.model.{module}"
                a, b = of_one_rank(adapter.header, *pair)
                tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            write_file(partial / "adapter_model.safetensors", tensors, {"format": "pt"})
            config = _config(adapter)
            (partial / "adapter_config.json").write_text(json.dumps(config, sort_keys=True))
            # Servers often run as another user. The shared folder's mode decides who has access.
            partial.chmod(0o755)
            for path in partial.iterdir():
                path.chmod(0o644)
            shutil.rmtree(shared.folder, ignore_errors=True)
            partial.rename(shared.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def of_one_rank(
    header: AdapterHeader, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (rank, in) and B (out, rank) at the adapter's rank, with the same product."""
    import torch

    own = a.shape[0]
    if own == header.rank:
        return a, b
    more = header.rank - own
    factor = header.scaling(own) / header.scaling(header.rank)
    a = torch.nn.functional.pad(a.float(), (0, 0, 0, more))
    return a, torch.nn.functional.pad(b.float() * factor, (0, more))


def _config(adapter: AdapterWeights) -> dict[str, Any]:
    header = adapter.header
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": header.rank,
        "lora_alpha": header.alpha,
        "use_rslora": header.rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rsplit(".", 1)[1] for module in adapter.modules}),
    }
