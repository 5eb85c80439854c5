"""The upstream engine over real vLLM servers: the same behaviour, PEFT's answers, and their end.

One module and two servers, since starting them takes most of the time. The tests run in the order
of the file; the last one kills a server.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from benchmarks.engine_parts.vllm_process import CONTEXT_TOKENS, MAX_ADAPTERS, VllmProcess
from examples.demo.market import Market, people
from examples.demo.world import World
from rich.console import Console
from tests.engine_suite import (  # noqa: F401 - the suite's tests
    OPEN,
    asked,
    collect,
    test_allowance_pauses_and_resumes_without_changing_the_answer,
    test_bad_requests_are_refused,
    test_cancel_frees_and_ends,
    test_choices_share_a_prompt_whoever_of_them_leaves,
    test_ends_once_with_reason_and_within_max_tokens,
    test_full_engine_refuses_and_recovers,
    test_logprobs_come_with_their_tokens,
    test_paused_streams_give_their_slots_to_others,
    test_removed_adapter_is_unknown,
    test_same_request_same_answer_alone_or_among_others,
    test_stop_string_is_cut_off,
    test_unread_stream_is_bounded,
    text_of,
)
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.engine.reference import PeftReference

from viz.basemodel.export import export_base
from viz.basemodel.source import LoadedBase
from viz.domain.units import AdapterId
from viz.engine.upstream.engine import UpstreamEngine
from viz.engine.upstream.replica import ReplicaState
from viz.engine.upstream.settings import UpstreamSettings

# The servers start within the first test's setup.
pytestmark = pytest.mark.timeout(900)
ADAPTERS = 6


def tiny(root: Path) -> LoadedBase:
    """Return the tiny base with heads of a size that vLLM computes on a CPU."""
    return make_tiny_base(
        root, quantised=True, num_attention_heads=2, num_key_value_heads=1, head_dim=32
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    base = tiny(folder)
    export_base(base, folder / "out")
    for number in range(1, ADAPTERS + 1):
        path = folder / f"{number}.safetensors"
        write_random_adapter(path, base, rank=(4, 8, 64)[number % 3], seed=number)
    return folder


@pytest.fixture(scope="module")
def servers(root: Path) -> Iterator[list[VllmProcess]]:
    processors = sorted(os.sched_getaffinity(0))
    started = [
        VllmProcess(root / "out", root / f"{place}.log", [processors[place % len(processors)]])
        for place in range(2)
    ]
    try:
        for each in started:
            each.start()
        for each in started:
            each.wait()
        yield started
    finally:
        for each in started:
            each.kill()


@pytest.fixture
async def engine(
    servers: list[VllmProcess], root: Path, tmp_path: Path
) -> AsyncIterator[UpstreamEngine]:
    settings = UpstreamSettings(
        urls=tuple(each.url for each in servers),
        folder=tmp_path / "shared",
        arithmetic="float32",
        context_tokens=CONTEXT_TOKENS,
        max_adapters=MAX_ADAPTERS,
        max_rank=64,
        max_streams=4,
        max_waiting=OPEN - 4,
        watch_s=0.2,
    )
    made = await UpstreamEngine.start(tiny(root), settings)
    try:
        for number in (1, 2):
            await made.add_adapter(AdapterId(number), root / f"{number}.safetensors")
        # The first time our own pass of the base is computed, longer than a busy start waits.
        async with asyncio.timeout(600):
            while not all(each.ready for each in made.replicas):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield made
    finally:
        await made.close()


async def answer(engine: UpstreamEngine, adapter: int, tokens: int = 24) -> str:
    request = asked(engine, adapter, f"question {adapter}", max_tokens=tokens)
    return text_of(await collect(await engine.generate(request)))


async def test_both_servers_compute_the_base(engine: UpstreamEngine) -> None:
    """E1 by their own numbers: within 0.005 nats a token of our pass of dequantise(NF4(w))."""
    assert [each.state for each in engine.replicas] == [ReplicaState.READY] * 2
    assert engine.stats()["canary_mismatches"] == 0


async def test_greedy_answers_are_pefts(engine: UpstreamEngine, root: Path) -> None:
    """Every adapter's tokens are those of PEFT, also after evictions, and of mixed ranks."""
    base = tiny(root)
    for number in range(3, ADAPTERS + 1):
        await engine.add_adapter(AdapterId(number), root / f"{number}.safetensors")
    numbers = [*range(ADAPTERS + 1), 1, 2]
    made = [await answer(engine, number) for number in numbers]
    reference, plain = PeftReference(base), PeftReference(base)
    for number, text in zip(numbers, made, strict=True):
        if number:
            reference.wear(root / f"{number}.safetensors")
        prompt = asked(engine, number, f"question {number}").prompt
        expected = (reference if number else plain).greedy(prompt, 24)
        assert text == base.tokenizer.decode(expected), number
    assert engine.stats()["canary_mismatches"] == 0


async def test_a_third_adapter_is_loaded_in_mid_stream(engine: UpstreamEngine, root: Path) -> None:
    """Two streams go on, token for token, while a server loads another adapter and answers."""
    alone = [await answer(engine, number, 120) for number in (1, 2)]
    running = [asyncio.create_task(answer(engine, number, 120)) for number in (1, 2)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in running)
    await engine.add_adapter(AdapterId(3), root / "3.safetensors")
    third = await answer(engine, 3)
    assert await asyncio.gather(*running) == alone
    assert third == await answer(engine, 3)


async def test_one_node_sells_an_embedded_and_an_upstream_base(
    engine: UpstreamEngine, servers: list[VllmProcess], tmp_path: Path
) -> None:
    """Each paid answer of a node with two bases is that of the asked base's own weights.

    So is an adapter's: it is trained on the base that the server computes, and served by it.
    """
    await engine.close()  # one node a server
    bases = {
        "here": make_tiny_base(tmp_path / "here", seed=8, quantised=True),
        "there": tiny(tmp_path / "there"),
    }
    await asyncio.to_thread(sold, bases, servers, tmp_path)


def sold(bases: dict[str, LoadedBase], servers: list[VllmProcess], folder: Path) -> None:
    """Run a node with both bases, buy answers, and compare them with PEFT's."""
    urls = json.dumps([each.url for each in servers])
    sections = "".join(
        f'[[engine]]\nbase_model = "{base.directory}"\nbase_digest = "0x{base.digest.hex()}"\n'
        f'name = "{name}"\nmax_streams = 4\ncontext_tokens = {CONTEXT_TOKENS}\nthreads = 1\n'
        for name, base in bases.items()
    ) + (
        f'backend = "upstream"\n[engine.upstream]\nurls = {urls}\narithmetic = "float32"\n'
        f"max_adapters = {MAX_ADAPTERS}\nmax_rank = 64\n"
    )
    names = ("chain", "alma", "node", "buyer")
    with people(folder / "people", Console(quiet=True), names) as (chain, alma, node, buyer):
        market = Market(chain, alma, buyer)
        market.start_chain()
        market.start_node("N", node, sections)
        market.wait_for_node("N", node)
        market.register_work(node)
        market.license_work(node)
        weights = market.train(node, "--base", "there")
        market.open_channel(market.fund_buyer(), node)
        for name, base in bases.items():
            reference = PeftReference(base)
            assert_bought(market, node, name, base, reference)
        reference.wear(weights)
        assert_bought(market, node, f"viz-adapter-{market.adapter}", base, reference)
        told = node.json("status", "--node", node.node_url)["engines"]
        assert told["there"]["received_tokens"] > 0
        assert told["there"]["canary_mismatches"] == 0


def assert_bought(
    market: Market, node: World, model: str, base: LoadedBase, reference: PeftReference
) -> None:
    prompt = base.tokenizer.render([{"role": "user", "content": "question"}])
    answer = market.ask(node, model, "question", 24)
    expected = reference.greedy(prompt, 24)
    assert answer.text == base.tokenizer.decode(expected), model
    counted = base.tokenizer.count(answer.text)
    assert (answer.prompt_tokens, answer.completion_tokens) == (len(prompt), counted)


async def test_a_killed_server_costs_no_answer(
    engine: UpstreamEngine, servers: list[VllmProcess]
) -> None:
    """Answers that ran on it go on where they were on the other one, token for token."""
    numbers = [0, 1, 2, 0]
    alone = [await answer(engine, number, 120) for number in numbers]
    running = [asyncio.create_task(answer(engine, number, 120)) for number in numbers]
    async with asyncio.timeout(60):
        while not all(each.running for each in engine.replicas):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await asyncio.to_thread(servers[0].kill)
    assert await asyncio.gather(*running) == alone
    assert engine.stats()["failovers"] >= 1
    assert engine.replicas[0].state is ReplicaState.DOWN
    assert engine.replicas[1].state is ReplicaState.READY
