"""Write a run's checkpoint whole or not at all, and read it only if it is whole.

Owns the files, their order and their fsyncs, and how an optimiser's state becomes tensors. Does
not know what is trained. Invariant: what ``read`` returns is byte for byte what ``write`` was
given; a checkpoint that a power cut tore is passed over, and the one before it, or none, is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from viz.private import sync_to_disk

if TYPE_CHECKING:
    import torch

CHECKPOINT: Final = "checkpoint"
_OLD: Final = f"{CHECKPOINT}.old"
_PARTIAL: Final = f"{CHECKPOINT}.partial"
FOLDERS: Final = (CHECKPOINT, _OLD, _PARTIAL)
_STATE, _PROGRESS = "state.safetensors", "progress.json"
_INTEGER: Final = "integer:"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved: whose it is, the scalars, the tensors by name."""

    identity: str
    progress: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def write(directory: Path, saved: Checkpoint) -> None:
    """Write a checkpoint beside the last one, then put it in its place."""
    from viz.basemodel.safetensor_file import write_file

    partial = directory / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digest = write_file(partial / _STATE, saved.tensors, {})
    record = {"identity": saved.identity, "progress": saved.progress, "state": digest.hex()}
    (partial / _PROGRESS).write_text(json.dumps(record))
    for path in (partial / _STATE, partial / _PROGRESS, partial):
        sync_to_disk(path)
    current, old = directory / CHECKPOINT, directory / _OLD
    shutil.rmtree(old, ignore_errors=True)
    if current.exists():
        current.replace(old)
    partial.replace(current)
    sync_to_disk(directory)
    shutil.rmtree(old, ignore_errors=True)


def read(directory: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None."""
    for name in (CHECKPOINT, _OLD):
        if (directory / name).exists():
            try:
                return _read(directory / name)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("a checkpoint is damaged and not used", at=name, reason=str(error))
    return None


def tensors_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return an optimiser's state of one parameter as flat float32 tensors.

    bitsandbytes counts steps in an int, torch in a tensor: an int (exact up to 2**24) is marked by
    its name.
    """
    import torch

    return {
        f"{_INTEGER}{name}" if isinstance(value, int) else name: (
            torch.tensor([value], dtype=torch.float32)
            if isinstance(value, int)
            else value.reshape(-1).float()
        )
        for name, value in state.items()
    }


def state_of(tensors: Mapping[str, torch.Tensor], parameter: torch.Tensor) -> dict[str, Any]:
    """Return the optimiser's state that ``tensors_of`` flattened, on its parameter's device."""
    state: dict[str, Any] = {}
    for name, value in tensors.items():
        if name.startswith(_INTEGER):
            state[name.removeprefix(_INTEGER)] = int(value)
        elif name == "step":
            state[name] = value.reshape(())
        else:
            state[name] = value.reshape(parameter.shape).to(parameter.device)
    return state


def _read(folder: Path) -> Checkpoint:
    from safetensors.torch import load_file

    from viz.basemodel.safetensor_file import file_digest

    record = json.loads((folder / _PROGRESS).read_text("utf-8"))
    identity, progress = str(record["identity"]), dict(record["progress"])
    if file_digest(folder / _STATE).hex() != record["state"]:
        raise ValueError("its state is not what was written")
    return Checkpoint(identity, progress, load_file(str(folder / _STATE)))
