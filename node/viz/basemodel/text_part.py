"""Extract the language model from a checkpoint that also has a vision part (Gemma 3 from 4B on).

Owns a folder with the text model alone, in the usual layout of a text model: configuration, weights
in bf16 and tokenizer files. Invariants: the weights are copied unchanged; a checkpoint with a
weight that belongs neither to the language model nor to the vision part is refused; one weight at a
time is in memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.checkpoint import SINGLE, shards
from viz.basemodel.safetensor_file import write_file
from viz.domain.strict_json import load_json
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

# model_type of a checkpoint with a vision part -> that of its language model, and its class.
_TEXT_PARTS: Final = {"gemma3": ("gemma3_text", "Gemma3ForCausalLM")}
# Prefixes of the weights' names: as published, and as transformers 5 writes them.
_TEXT: Final = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
}
_VISION: Final = ("vision_tower.", "multi_modal_projector.")
_COPIED: Final = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def text_folder(directory: Path, cache_dir: Path) -> Path | None:
    """Return the folder for the text part of a model directory; None if there is no vision part.

    The folder may not exist yet. Its name depends on the configuration and on the sizes and times
    of the files of weights.
    """
    told = _config(directory)
    if told is None:
        return None
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for path in shards(directory):
        found = path.stat()
        digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return cache_dir / "text" / f"{directory.name}-{digest.hexdigest()[:16]}"


def write_text_part(directory: Path, target: Path) -> None:
    """Write the text part of ``directory`` into the empty folder ``target``.

    Raises ModelUnavailable, and OSError if it cannot be written.
    """
    told = _config(directory)
    if told is None:
        raise ModelUnavailable(f"{directory} has no vision part to leave out")
    family, named = _TEXT_PARTS[told["model_type"]]
    config = {
        **told["text_config"],
        "model_type": family,
        "architectures": [named],
        **{name: told[name] for name in ("tie_word_embeddings", "eos_token_id") if name in told},
    }
    (target / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    for name in _COPIED:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, target / name)
    weights = _TextTensors(directory)
    write_file(target / SINGLE, weights, {"format": "pt"}, bf16_sizes=weights.sizes)


def _config(directory: Path) -> dict[str, Any] | None:
    """Return the configuration if the model has a vision part; None otherwise."""
    try:
        told = load_json((directory / "config.json").read_bytes(), last_counts=True)
    except (OSError, ValueError):
        return None  # ``shape_reader`` reports the fault
    if not isinstance(told, dict) or told.get("model_type") not in _TEXT_PARTS:
        return None
    if not isinstance(told.get("text_config"), dict):
        raise ModelUnavailable(f"{directory}/config.json has no text_config")
    return told


class _TextTensors(Mapping[str, "torch.Tensor"]):
    """The language model's weights under the names of a text model, read at each lookup."""

    def __init__(self, directory: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.sizes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[Any, str]] = {}
        for path in shards(directory):
            try:
                file: Any = safe_open(str(path), "pt")
                for name in file.keys():  # noqa: SIM118  the file is no mapping
                    own = _text_name(name, directory)
                    if own is not None:
                        self._places[own] = file, name
                        self.sizes[own] = tuple(file.get_slice(name).get_shape())
            except (OSError, ValueError, SafetensorError) as error:
                raise ModelUnavailable(
                    f"{path} cannot be read as safetensors ({str(error)[:120]}): fetch it again"
                ) from error

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        file, stored = self._places[name]
        tensor: torch.Tensor = file.get_tensor(stored)
        return tensor.to(torch.bfloat16)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _text_name(name: str, directory: Path) -> str | None:
    """Return a weight's name in the text model; None if it belongs to the vision part."""
    for prefix, own in _TEXT.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    if name.removeprefix("model.").startswith(_VISION):
        return None
    raise ModelUnavailable(
        f"{directory} holds the weight {name[:120]}, which is neither of the language model nor of "
        "the vision part"
    )
