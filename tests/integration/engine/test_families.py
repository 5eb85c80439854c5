"""Each family's tiny random model: the engine's logits are those of transformers and PEFT."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.families import FAMILIES, family_base
from tests.fakes.tiny_base import write_random_adapter
from tests.integration.engine.reference import PeftReference

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.shape import Rope
from viz.basemodel.source import LoadedBase
from viz.domain.units import AdapterId
from viz.engine.embedded.backend_choice import choose_backend
from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
from viz.engine.embedded.kv_cache import KvCache
from viz.engine.embedded.loaded_adapter import LoadedAdapter, stack
from viz.engine.embedded.native_check import load_kernels
from viz.engine.embedded.rotary import frequencies, rotations

PROMPTS = [[3 + (5 * slot + 11 * at) % 250 for at in range(30 + 14 * slot)] for slot in range(3)]
STEPS = 4
# Both sides sum in float32, in another order. Four layers' sums of 64 to 128 terms differ by less
# than 1e-5 of the logits' size; a wrong norm, bias, mask, window or rotation by far more than this.
TOLERANCE = 2e-4


def _adapters(base: LoadedBase, root: Path, dtype: torch.dtype) -> list[LoadedAdapter | None]:
    """None, and two adapters of different ranks on all linear layers."""
    adapters: list[LoadedAdapter | None] = [None]
    for rank in (4, 16):
        path = root / f"adapter-{rank}"
        write_random_adapter(path, base, rank=rank, seed=rank)
        read = read_adapter(path, base.shape, base.digest)
        adapters.append(stack(AdapterId(rank), read, base.shape, dtype))
    return adapters


def _logits(decoder: DecoderModel, adapters: list[LoadedAdapter | None]) -> list[torch.Tensor]:
    """Return, for each slot, the logits of the last prompt token and of STEPS decoded ones."""
    found: list[list[torch.Tensor]] = [[] for _ in PROMPTS]
    for start in range(0, max(map(len, PROMPTS)), 20):  # several chunks, of several sequences
        slots = [slot for slot, prompt in enumerate(PROMPTS) if len(prompt) > start]
        chunks = [
            PrefillChunk(slot, start, PROMPTS[slot][start : start + 20], adapters[slot])
            for slot in slots
        ]
        made = decoder.prefill(chunks, range(len(chunks)))
        for slot, row in zip(slots, made, strict=True):
            if len(PROMPTS[slot]) <= start + 20:
                found[slot].append(row)
    worn = [(slot, adapter) for slot, adapter in enumerate(adapters) if adapter is not None]
    for step in range(STEPS):
        places = [len(prompt) + step for prompt in PROMPTS]
        for slot, row in enumerate(decoder.decode([7 + step] * 3, places, range(3), worn)):
            found[slot].append(row)
    return [torch.stack(rows) for rows in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_decode_and_adapters_are_transformers_own(tmp_path: Path, name: str) -> None:
    """A mixed batch in chunks, then decoded: each row's logits are the reference's, alone."""
    base = family_base(tmp_path, name)
    adapters = _adapters(base, tmp_path, torch.float32)
    cache = KvCache(base.shape, len(PROMPTS), 96, torch.float32)
    decoder = DecoderModel(serving_weights(base), base.shape, cache, torch.float32)
    found = _logits(decoder, adapters)
    reference = PeftReference(base)
    for slot, adapter in enumerate(adapters):
        if adapter is not None:
            reference.wear(tmp_path / f"adapter-{int(adapter.adapter_id)}")
        asked = [*PROMPTS[slot], *(7 + step for step in range(STEPS))]
        expected = reference.logits(asked)[len(PROMPTS[slot]) - 1 :]
        assert (found[slot] - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_stays_close(tmp_path: Path, name: str) -> None:
    """In bf16 the logits are the reference's up to rounding.

    The bound: bf16 keeps 8 significand bits. A layer rounds about two dozen times by up to 2**-9;
    over four layers that adds up, as a random walk, to 96**0.5 * 2**-9 = 2 % of the logits' size.
    Three times that is allowed.
    """
    base = family_base(tmp_path, name)
    cache = KvCache(base.shape, 1, 96, torch.bfloat16)
    decoder = DecoderModel(serving_weights(base), base.shape, cache, torch.bfloat16)
    found = decoder.prefill([PrefillChunk(0, 0, PROMPTS[2], None)], [0])[0].float()
    expected = PeftReference(base).logits(PROMPTS[2])[-1]
    error = (found - expected).square().mean().sqrt()
    assert error <= 3 * 96**0.5 * 2.0**-9 * expected.square().mean().sqrt()


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["llama", "llama-3.1", "llama-yarn", "llama-linear", "mistral"])
def test_the_compiled_pass_computes_what_is_like_llama(tmp_path: Path, name: str) -> None:
    """Stretched rotary embeddings and heads of their own size are served by the fast pass."""
    base = family_base(tmp_path, name)
    kernels = load_kernels(tmp_path / "native", 2)
    adapters = _adapters(base, tmp_path, torch.float16)
    cache = KvCache(base.shape, len(PROMPTS), 96, torch.float32)
    found = _logits(
        DecoderModel(serving_weights(base), base.shape, cache, torch.float32, kernels), adapters
    )
    plain = _adapters(base, tmp_path, torch.float32)
    cache = KvCache(base.shape, len(PROMPTS), 96, torch.float32)
    expected = _logits(DecoderModel(serving_weights(base), base.shape, cache, torch.float32), plain)
    # Adapters are kept in float16 there: 11 bits of each weight.
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 4e-3 * theirs.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_backend_is_chosen_by_the_shape(tmp_path: Path, name: str) -> None:
    """A model that the compiled pass cannot compute is served by torch, and the log says why."""
    shape = family_base(tmp_path, name).shape
    like_llama = name in {"llama", "llama-3.1", "llama-yarn", "llama-linear", "mistral"}
    assert shape.is_llama(96) == like_llama
    choice = choose_backend(shape, "float32", None, capacity=96)
    assert ("only models like Llama" in choice.reason) == (not like_llama)
    if name == "mistral-window":  # nobody leaves the window: it is Llama's pass
        assert shape.is_llama(24) and not shape.is_llama(25)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize(
    "told",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4_096,
            "beta_fast": 48.0,
            "beta_slow": 2.0,
            "truncate": False,
            "attention_factor": 0.7,
        },
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8_192,
        },
    ],
)
def test_the_rotations_are_transformers_own(told: dict[str, object], head_dim: int) -> None:
    """At the sizes and contexts of real models, to float32's own error."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from viz.basemodel.shape_reader import _rope

    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        rope_parameters={**told, "rope_theta": 500_000.0},
        max_position_embeddings=131_072,
    )
    theirs = LlamaRotaryEmbedding(config)
    rope = _rope(config.rope_parameters, "here")
    assert isinstance(rope, Rope)
    torch.testing.assert_close(frequencies(rope, head_dim), theirs.inv_freq, rtol=1e-5, atol=0)
    cosines, sines = rotations(replace(rope), head_dim, 64)
    expected = theirs(torch.zeros(1), torch.arange(64).unsqueeze(0))
    for ours, other in zip((cosines, sines), expected, strict=True):
        torch.testing.assert_close(ours, other[0, :, : head_dim // 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "smollm3", "gemma2", "gemma3"])
async def test_the_engine_serves_the_family(tmp_path: Path, name: str) -> None:
    """From a directory to streams: three adapters in one batch, each greedy text its own."""
    from viz.domain.ports.engine import GenerationRequest, Sampling
    from viz.engine.embedded.engine import EmbeddedEngine
    from viz.engine.embedded.settings import EngineSettings

    base = family_base(tmp_path, name, quantised=True)
    settings = EngineSettings(
        max_streams=3, context_tokens=96, compute="float32", prefill_tokens=16
    )
    engine = await EmbeddedEngine.start(base, settings)
    assert engine.stats()["compute_float32"] == 1
    for rank in (4, 16):
        path = tmp_path / f"adapter-{rank}"
        write_random_adapter(path, base, rank=rank, seed=rank)
        await engine.add_adapter(AdapterId(rank), path)
    rules = Sampling(max_tokens=12)
    asked = [
        GenerationRequest(f"{rank}", tuple(prompt), AdapterId(rank), rules)
        for rank, prompt in zip((0, 4, 16), PROMPTS, strict=True)
    ]
    streams = [await engine.generate(request) for request in asked]
    made = []
    for stream in streams:
        async with asyncio.timeout(60):
            made.append([token async for piece in stream for token in piece.token_ids])
    await engine.close()
    reference = PeftReference(base)
    for request, tokens in zip(asked, made, strict=True):
        if request.adapter_id:
            reference.wear(tmp_path / f"adapter-{int(request.adapter_id)}")
        assert tokens == reference.greedy(request.prompt, 12)
