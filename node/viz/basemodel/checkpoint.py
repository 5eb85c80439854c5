"""Read the weights of a Hugging Face model directory, one tensor at a time.

Owns finding the safetensors shards and checking them against the shape. Invariants: a checkpoint
has each weight of the shape exactly once, in its size, and no other weight; only safetensors files
are read. Each lookup maps one shard and returns one tensor in bf16, so that a large checkpoint
needs memory only for its largest weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.shape import DecoderShape
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
# Allowed extra weights: old checkpoints hold the frequencies of their rotary embeddings, which
# config.json determines too, and a tied head may be stored a second time.
_DERIVED: Final = ".rotary_emb.inv_freq"
_HEAD: Final = "lm_head.weight"


class CheckpointTensors(Mapping[str, "torch.Tensor"]):
    """A directory's weights in bf16 by Hugging Face name, iterated in alphabetical order.

    Raises ModelUnavailable if the checkpoint and the shape differ.
    """

    def __init__(self, directory: Path, shape: DecoderShape) -> None:
        from safetensors import SafetensorError, safe_open

        self._places: dict[str, str] = {}
        found: dict[str, tuple[int, ...]] = {}
        for path in shards(directory):
            try:
                file: Any = safe_open(str(path), "pt")
                for name in file.keys():  # noqa: SIM118  the file is no mapping
                    if name in found:
                        raise ModelUnavailable(f"{directory}: two shards have the weight {name}")
                    self._places[name] = str(path)
                    found[name] = tuple(file.get_slice(name).get_shape())
            except (OSError, ValueError, SafetensorError) as error:
                raise ModelUnavailable(
                    f"{path} cannot be read as safetensors ({str(error)[:120]}): fetch it again"
                ) from error
        wanted = shape.tensors()
        self._names = sorted(wanted)
        for name in self._names:
            if found.get(name) != wanted[name]:
                said = f"has shape {list(found[name])}" if name in found else "is missing"
                raise ModelUnavailable(
                    f"{directory}: the weight {name} {said}, and config.json describes "
                    f"{list(wanted[name])}: the files are of different models"
                )
        for name in sorted(found.keys() - wanted.keys()):
            if not name.endswith(_DERIVED) and not (name == _HEAD and shape.tied):
                raise ModelUnavailable(
                    f"{directory} holds the weight {name[:120]}, which config.json does not "
                    "describe: the files are of different models"
                )

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch
        from safetensors import safe_open

        # A file that stays open stays mapped, and every page that was read counts as memory of
        # this process. The tensor keeps its own mapping, for as long as it lives.
        file: Any = safe_open(self._places[name], "pt")
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor.to(torch.bfloat16).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def shards(directory: Path) -> list[Path]:
    """Return the safetensors files of a model directory; raise ModelUnavailable if one is missing.

    A file that is not named in the index is not read.
    """
    index = directory / INDEX
    if not index.exists():
        names = [SINGLE]
    else:
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnavailable(f"{index} cannot be read as an index of shards") from error
    files = [directory / name for name in names if isinstance(name, str)]
    if any(file.parent != directory for file in files) or len(files) != len(names):
        raise ModelUnavailable(f"{index} names a file outside its directory")
    missing = [file.name for file in files if not file.is_file()]
    if not missing:
        return files
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    if pickled and not index.exists():
        raise ModelUnavailable(
            f"{directory} holds its weights as pickles only ({pickled[0]}), which can run code and "
            "are never read: convert them to safetensors, or choose a revision that has them"
        )
    raise ModelUnavailable(f"{directory} has no {missing[0]}: fetch the complete checkpoint")
