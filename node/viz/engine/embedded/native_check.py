"""Check that the compiled pass gives the same results as torch, on a small random model.

The check covers every part of the pass (products, norms, positions, attention over a cache,
adapters of two rank buckets) in a prefill and a decoding step. It takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from viz.basemodel.shape import DecoderShape, Rope
from viz.domain.units import AdapterId
from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
from viz.engine.embedded.kv_cache import KvCache
from viz.engine.embedded.loaded_adapter import GROUPS, LoadedAdapter
from viz.engine.embedded.native.build import Kernels, NativeUnavailable, load_unchecked

# Sizes that are not multiples of the pass's panels and tiles, so that the edges are checked too.
_SHAPE = DecoderShape(
    hidden=40,
    intermediate=56,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=51,
    context_tokens=16,
    norm_epsilon=1e-5,
    rope=Rope(10_000.0),
    tied=True,
    end_ids=(),
    linears=(
        ("self_attn.q_proj", 64, 40),
        ("self_attn.k_proj", 32, 40),
        ("self_attn.v_proj", 32, 40),
        ("self_attn.o_proj", 40, 64),
        ("mlp.gate_proj", 56, 40),
        ("mlp.up_proj", 56, 40),
        ("mlp.down_proj", 40, 56),
    ),
)
_FACTOR = 0.5


def load_kernels(directory: Path, threads: int) -> Kernels:
    """Build or load the compiled pass, compare its results with torch's, and return it.

    Raises NativeUnavailable if there is no compiler, the build fails, or the results differ.
    """
    kernels = load_unchecked(directory, threads)
    try:
        sound = agrees(kernels)
    except RuntimeError as error:
        raise NativeUnavailable(f"the build failed: {error}") from error
    if not sound:
        raise NativeUnavailable("the compiled pass gives other results than torch")
    return kernels


def agrees(kernels: Kernels) -> bool:
    """Return whether all logits equal torch's, up to the rounding of sums in another order."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator) / math.sqrt(size[-1])

    weights = {
        name: (random(*size) if len(size) > 1 else 1 + random(*size)).bfloat16()
        for name, size in _SHAPE.tensors().items()
    }
    adapters_used = [_adapter(random, rank) for rank in (8, 64)]
    prompts = [[at * 7 % 51 for at in range(3, 3 + size)] for size in (9, 6, 4)]
    found: list[torch.Tensor] = []
    for using, adapters in (
        (kernels, adapters_used),
        (None, [_widened(adapter) for adapter in adapters_used]),
    ):
        cache = KvCache(_SHAPE, len(prompts), _SHAPE.context_tokens, torch.float32)
        decoder = DecoderModel(weights, _SHAPE, cache, torch.float32, using)
        chunks = [
            PrefillChunk(slot, 0, prompt, adapter)
            for slot, (prompt, adapter) in enumerate(zip(prompts, (None, *adapters), strict=True))
        ]
        first = decoder.prefill(chunks, range(3))
        ends = [len(prompt) for prompt in prompts]
        second = decoder.decode([5, 6, 7], ends, range(3), list(enumerate(adapters, start=1)))
        found.append(torch.cat((first, second)))
    return torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


def _adapter(random: Callable[..., torch.Tensor], rank: int) -> LoadedAdapter:
    """Return an adapter in the form of the compiled pass: float16, with factors other than 1."""
    layers, down, up = _SHAPE.layers, {}, {}
    for group, members in GROUPS.items():
        into = _SHAPE.linear(members[0])[1]
        down[group] = random(layers, len(members) * rank, into).half()
        for linear in members:
            up[linear] = random(layers, rank, _SHAPE.linear(linear)[0]).half()
    return LoadedAdapter(AdapterId(rank), rank, down, up, dict.fromkeys(up, _FACTOR))


def _widened(adapter: LoadedAdapter) -> LoadedAdapter:
    """Return the same adapter in the form of the torch path: float32, with factors of 1."""
    down = {group: part.float() for group, part in adapter.down.items()}
    up = {linear: part.float() * _FACTOR for linear, part in adapter.up.items()}
    return replace(adapter, down=down, up=up, factors=dict.fromkeys(up, 1.0))
