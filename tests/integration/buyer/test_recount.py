"""A buyer at a node that overbills tokens: caught by the packaged tokenizer, without being told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, DEPOSIT, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import buying

from viz.basemodel.packaged import TOKENIZER_OF_BASE, find_tokenizer
from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.domain.units import ZERO_HASH, Hash32
from viz.errors import NodeNotTrusted, PriceAboveCap
from viz.protocol.payment import CHAT_PATH, COMPLETIONS_PATH

((BASE, DIGEST),) = TOKENIZER_OF_BASE.items()
MODEL = f"viz-adapter-{ADAPTER}"
QUESTION = [{"role": "user", "content": "When is high tide?"}]


class CountingEngine(FakeEngine):
    """Invents text, and counts it as the packaged base model's tokenizer does."""

    def __init__(self) -> None:
        super().__init__(context_tokens=2048)
        found = find_tokenizer(DIGEST)
        assert found is not None
        self.tokenizer = found
        self.lie = 1.0
        self._model = replace(self._model, tokenizer_digest=DIGEST, vocabulary=49_152)

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        return self._padded(self.tokenizer.render(messages, so_far))

    def encode(self, text: str) -> tuple[int, ...]:
        return self._padded(self.tokenizer.encode(text))

    def count_tokens(self, text: str) -> int:
        return self.tokenizer.count(text)

    def _padded(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids + ids[-1:] * round(len(ids) * (self.lie - 1))


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
async def node(tmp_path: Path, engine: CountingEngine) -> AsyncIterator[Node]:
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node", engine=engine) as running:
        running.chain.balances[public_address(PAYER_KEY)] = 10**9
        yield running


async def ask(client: BuyerClient, path: str = CHAT_PATH, **more: Any) -> int:
    what = {"messages": QUESTION} if path == CHAT_PATH else {"prompt": "When is high tide?"}
    async with client.ask({"model": MODEL, "max_tokens": 60, **what, **more}, path) as answer:
        async for _ in answer:
            pass
    assert answer.cost_units is not None
    return answer.cost_units


@pytest.mark.parametrize("path", [CHAT_PATH, COMPLETIONS_PATH])
async def test_an_honest_node_is_paid_to_the_token(node: Node, tmp_path: Path, path: str) -> None:
    """Counted without being told how; several choices and roles as well."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert (await client.node.counter(client.info.adapters[0])).exact
        for more in ({}, {"n": 2}, {"temperature": 0, "seed": 3}):
            assert await ask(client, path, **more)


@pytest.mark.parametrize("path", [CHAT_PATH, COMPLETIONS_PATH])
@pytest.mark.parametrize("lie", [5.9, 2.7, 1.1])
async def test_a_prompt_that_is_overbilled_is_caught(
    node: Node, engine: CountingEngine, tmp_path: Path, lie: float, path: str
) -> None:
    """Also by little: refused before it is paid, or with the receipt; then in every process."""
    engine.lie = lie
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        with pytest.raises((NodeNotTrusted, PriceAboveCap)) as caught:
            await ask(client, path)
        assert client.channel.billed_units(ADAPTER) == 0
    async with buying(node, tmp_path / "b") as client:
        words = "forgive" if caught.type is NodeNotTrusted else "justifies"
        with pytest.raises(caught.type, match=words):
            await ask(client, path)
        assert client.channel.billed_units(ADAPTER) == 0


@pytest.mark.parametrize("times", [6, 2])
async def test_an_answer_that_is_overbilled_is_caught(
    node: Node, engine: CountingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Its text arrived, and has fewer tokens than the receipt says."""
    honest = engine.tokenizer.count
    monkeypatch.setattr(engine, "count_tokens", lambda text: times * honest(text))
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        with pytest.raises(NodeNotTrusted, match="counts other tokens"):
            await ask(client)
        assert client.channel.billed_units(ADAPTER) == 0


async def test_a_known_base_with_another_tokenizer_is_refused(
    node: Node, engine: CountingEngine, tmp_path: Path
) -> None:
    """A node with a tokenizer of its own could not be counted after; its base tells."""
    async with buying(node, tmp_path / "a", chain=node.chain) as client:
        engine._model = replace(engine._model, tokenizer_digest=ZERO_HASH)
        await client.refresh_info()
        state = node.chain.adapter_states[ADAPTER]
        node.chain.adapter_states[ADAPTER] = replace(state, base_model=BASE)
        with pytest.raises(NodeNotTrusted, match="tokenizer"):
            await client.offer_of(MODEL)
    engine._model = replace(engine._model, digest=BASE)
    with pytest.raises(NodeNotTrusted, match="tokenizer"):
        async with buying(node, tmp_path / "b"):
            pass


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("model", [MODEL, "fake"])
async def test_a_recount_is_not_switched_off_by_another_name(
    node: Node, engine: CountingEngine, tmp_path: Path, restart: bool, model: str
) -> None:
    """A node that names a base and a tokenizer that nobody knows gets nothing, in a running process
    and in the next one, until the buyer forgives; the base model's own name is no way round."""

    def switch() -> None:
        engine._model = replace(
            engine._model, digest=Hash32(b"\5" * 32), tokenizer_digest=Hash32(b"\6" * 32)
        )

    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        await ask(client, model=model)
        signed = client.channel.total_units
        switch()
        if not restart:
            await client.refresh_info()
            with pytest.raises(NodeNotTrusted, match="counted again"):
                await ask(client, model=model)
            assert client.channel.total_units == signed
    async with buying(node, tmp_path / "b") as client:
        with pytest.raises(NodeNotTrusted, match="counted again"):
            await ask(client, model=model)
        assert client.channel.total_units == signed
        client.forgive()
        assert await client.node.offer_of(model)


async def test_an_adapter_is_checked_again_where_the_node_names_another_tokenizer(
    node: Node, engine: CountingEngine, tmp_path: Path
) -> None:
    """The chain says which base an adapter belongs to, and so by what it is counted."""
    state = node.chain.adapter_states[ADAPTER]
    node.chain.adapter_states[ADAPTER] = replace(state, base_model=BASE)
    engine._model = replace(engine._model, digest=BASE)
    async with buying(node, tmp_path / "b", chain=node.chain) as client:
        assert await client.node.offer_of(MODEL)
        engine._model = replace(engine._model, digest=Hash32(b"\5" * 32))
        await client.refresh_info()
        with pytest.raises(NodeNotTrusted, match="another base model than the node says"):
            await client.node.offer_of(MODEL)
        engine._model = replace(engine._model, tokenizer_digest=Hash32(b"\6" * 32))
        await client.refresh_info()
        with pytest.raises(NodeNotTrusted, match="names tokenizer"):
            await client.node.offer_of(MODEL)
