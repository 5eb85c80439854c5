"""The engine computes what PEFT computes, for every adapter, whatever runs beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.fakes.real_base import real_base
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.engine.reference import PeftReference

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import Generation, GenerationRequest, Piece, Sampling
from viz.domain.units import AdapterId
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings

Compute = Literal["float32", "native"]
RANKS = (1, 4, 8, 8, 12, 16, 24, 64)


def write_adapters(root: Path, base: LoadedBase, count: int, scale: float) -> list[Path]:
    paths = [root / f"adapter-{number}.safetensors" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        write_random_adapter(path, base, rank=RANKS[number % 8], seed=number, scale=scale)
    return paths


async def serve(
    engine: EmbeddedEngine, adapter: int, prompt: tuple[int, ...], sampling: Sampling
) -> list[int]:
    request = GenerationRequest(f"{adapter}", prompt, AdapterId(adapter), sampling)
    return await collect(await engine.generate(request))


async def pieces_of(stream: Generation) -> list[Piece]:
    async with asyncio.timeout(120):
        return [piece async for piece in stream]


async def collect(stream: Generation) -> list[int]:
    return [token for piece in await pieces_of(stream) for token in piece.token_ids]


def assert_greedy(
    base: LoadedBase,
    reference: PeftReference,
    prompt: tuple[int, ...],
    made: list[int],
    count: int,
    compute: Compute,
) -> None:
    """Hold greedy tokens to PEFT's: equal in float32; compiled, PEFT's best or as good.

    The compiled pass keeps adapters as float16: each weight errs by at most 2**-11 of itself, so a
    module's product by about as much of its own size, and over the modules errors add as a random
    walk. Twice that share of the logits' root mean square is what two tokens must lie apart for
    their order to be certain.
    """
    if compute == "float32":
        assert made == reference.greedy(prompt, count)
        return
    slack = 2 * len(list(base.shape.modules())) ** 0.5 * 2.0**-11
    rows = reference.logits([*prompt, *made])[len(prompt) - 1 :][:count]
    for place, row in enumerate(rows):
        ended = place == len(made)
        chosen = row[list(base.shape.end_ids)].max() if ended else row[made[place]]
        assert row.max() - chosen <= slack * row.square().mean().sqrt()


@pytest.mark.parametrize("compute", ["float32", "native"])
async def test_mixed_batch_equals_peft(tmp_path: Path, compute: Compute) -> None:
    """32 adapters of mixed ranks, joining, leaving and evicted: greedy tokens are PEFT's."""
    base = make_tiny_base(tmp_path, quantised=True)
    paths = write_adapters(tmp_path, base, 32, 0.3)
    prompts = [base.tokenizer.encode("question " * (1 + i % 7) + str(i)) for i in range(33)]
    settings = EngineSettings(
        max_streams=7,
        context_tokens=160,
        compute=compute,
        compile=compute == "native",
        resident_adapters=9,
        prefill_tokens=16,
    )
    engine = await EmbeddedEngine.start(base, settings)
    for number, path in enumerate(paths, start=1):
        await engine.add_adapter(AdapterId(number), path)
    counts = [6 + 5 * (i % 5) for i in range(33)]
    greedy = [Sampling(max_tokens=count) for count in counts]
    seeded = [Sampling(max_tokens=12, temperature=0.9, top_p=0.95, seed=i) for i in range(33)]

    async def late(number: int, rules: Sampling) -> list[int]:
        await asyncio.sleep(0.01 * (number % 5))
        return await serve(engine, number, prompts[number], rules)

    order = [(i * 13) % 33 for i in range(33)]
    mixed = dict(
        zip(order, await asyncio.gather(*(late(i, greedy[i]) for i in order)), strict=True)
    )
    drawn = dict(
        zip(order, await asyncio.gather(*(late(i, seeded[i]) for i in order)), strict=True)
    )
    drawn_alone = {i: await late(i, seeded[i]) for i in (0, 3, 8, 16, 31)}
    assert engine.stats()["adapter_evictions"] > 20
    await engine.close()

    assert {i: drawn[i] for i in drawn_alone} == drawn_alone
    reference = PeftReference(base)
    assert mixed[0] == reference.greedy(prompts[0], counts[0])
    for number, path in enumerate(paths, start=1):
        reference.wear(path)
        assert_greedy(base, reference, prompts[number], mixed[number], counts[number], compute)


@pytest.mark.parametrize("compute", ["float32", "native"])
async def test_thirty_two_adapters_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: Compute
) -> None:
    """32 streams, 32 adapters of mixed ranks, one step: each draws what it draws alone."""
    base = make_tiny_base(tmp_path)
    settings = EngineSettings(
        max_streams=32, context_tokens=64, compute=compute, compile=compute == "native"
    )
    engine = await EmbeddedEngine.start(base, settings)
    for number, path in enumerate(write_adapters(tmp_path, base, 32, 0.3), start=1):
        await engine.add_adapter(AdapterId(number), path)
    decoder: Any = engine._engine_loop._decoder
    decode, worn = decoder.decode, []

    def watched(*arguments: Any) -> Any:
        worn.append(len({adapter.adapter_id for _, adapter in arguments[3]}))
        return decode(*arguments)

    monkeypatch.setattr(decoder, "decode", watched)
    requests = [
        GenerationRequest(
            f"{i}",
            base.tokenizer.encode("question " * (1 + i % 3) + str(i)),
            AdapterId(i),
            Sampling(max_tokens=10, temperature=0.9, top_p=0.95, top_k=200, seed=i),
        )
        for i in range(1, 33)
    ]
    streams = [await engine.generate(request) for request in requests]
    for stream in streams:
        stream.allow(2)
    heads = [(await anext(stream)).token_ids for stream in streams]
    for stream in streams:
        stream.allow(10)
    tails = await asyncio.gather(*map(collect, streams))
    assert max(worn) == 32
    alone = [await collect(await engine.generate(request)) for request in requests]
    await engine.close()
    assert [[*h, *t] for h, t in zip(heads, tails, strict=True)] == alone
    assert len(set(map(tuple, alone))) == 32


async def test_bf16_with_adapters_stays_close_to_peft(tmp_path: Path) -> None:
    """Prefilled and decoded in a mixed batch, bf16 log-probabilities are PEFT's up to rounding.

    The bound: bf16 keeps 8 significand bits. A layer with adapters rounds about two dozen times
    (norms, products, A(x), B(A(x)), A and B themselves, sums), each by up to 2**-9; over two layers
    that adds up, as a random walk, to 48**0.5 * 2**-9 = 1.4 % of the logits' size. Three times that
    is allowed; an adapter that is missing or another's is off by ten times as much.
    """
    base = make_tiny_base(tmp_path)
    paths = write_adapters(tmp_path, base, 8, 0.3)
    settings = EngineSettings(max_streams=8, context_tokens=96, compute="bfloat16", compile=False)
    engine = await EmbeddedEngine.start(base, settings)
    for number, path in enumerate(paths, start=1):
        await engine.add_adapter(AdapterId(number), path)
    prompts = [base.tokenizer.encode("question " * (1 + i % 5) + str(i)) for i in range(9)]
    rules = Sampling(max_tokens=8, logprobs=20)
    streams = [
        await engine.generate(GenerationRequest(f"{i}", prompts[i], AdapterId(i), rules))
        for i in range(1, 9)
    ]
    answers = await asyncio.gather(*map(pieces_of, streams))
    assert engine.stats()["compute_bfloat16"] == 1
    await engine.close()
    reference = PeftReference(base)
    for number, (path, pieces) in enumerate(zip(paths, answers, strict=True), start=1):
        reference.wear(path)
        made = [token for piece in pieces for token in piece.token_ids]
        exact = reference.logits([*prompts[number], *made])[len(prompts[number]) - 1 :]
        tops = [top for piece in pieces for top in piece.top_logprobs]
        assert len(tops) == len(made) > 1
        for row, top in zip(exact, tops, strict=False):
            expected = row.log_softmax(-1)[[found.token_id for found in top]]
            error = expected - expected.new_tensor([found.logprob for found in top])
            allowed = 3 * 48**0.5 * 2.0**-9 * row.square().mean().sqrt()
            assert error.square().mean().sqrt() <= allowed


@pytest.mark.parametrize("compute", ["float32", "native"])
async def test_real_model_equals_peft_and_bf16_stays_close(
    tmp_path: Path, compute: Compute
) -> None:
    """SmolLM2: eager and compiled greedy tokens are PEFT's; bf16 logits stay near.

    The bound: bf16 keeps 8 significand bits, so each of about 60 residual additions may err by
    2**-9 of the stream's size; errors add as a random walk, about 60**0.5 * 2**-9 = 1.5 % of the
    logits' size. Twice that is allowed, measured as the root mean square over the vocabulary.
    """
    import torch

    from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
    from viz.engine.embedded.kv_cache import KvCache

    base = real_base()
    paths = write_adapters(tmp_path, base, 4, 0.02)
    tokenizer = base.tokenizer
    prompts = [tokenizer.render([{"role": "user", "content": f"Count to {i}."}]) for i in range(5)]
    settings = EngineSettings(
        max_streams=5, context_tokens=128, compute=compute, compile=compute == "native"
    )
    engine = await EmbeddedEngine.start(base, settings)
    for number, path in enumerate(paths, start=1):
        await engine.add_adapter(AdapterId(number), path)
    mixed = await asyncio.gather(
        *(serve(engine, i, prompts[i], Sampling(max_tokens=6 + i)) for i in range(5))
    )
    await engine.close()

    reference = PeftReference(base)
    weights = serving_weights(base)
    cache = KvCache(base.shape, 1, 128, torch.bfloat16)
    decoder = DecoderModel(weights, base.shape, cache, torch.bfloat16)
    exact = reference.logits(prompts[0])[-1]
    rounded = decoder.prefill([PrefillChunk(0, 0, prompts[0], None)], [0])[0].float()
    assert (rounded - exact).square().mean().sqrt() <= 0.03 * exact.square().mean().sqrt()
    assert mixed[0] == reference.greedy(prompts[0], 6)
    for number, path in enumerate(paths, start=1):
        reference.wear(path)
        assert_greedy(base, reference, prompts[number], mixed[number], 6 + number, compute)
