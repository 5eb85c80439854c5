"""Two base models in one node, an adapter on each: asked for, counted and paid by what they are."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.api.harness import (
    ADAPTER,
    DEPOSIT,
    PAYER_KEY,
    PRICE,
    Node,
    adapter_record,
    running_node,
)
from tests.integration.buyer.conftest import buying

from viz.basemodel.source import LoadedBase
from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.domain.pricing import Price
from viz.domain.typed_data import Receipt
from viz.domain.units import BASE_MODEL, AdapterId, hex_of
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.errors import AdapterNotServable, NodeNotTrusted
from viz.protocol.messages import NodeInfo
from viz.protocol.payment import CHAT_PATH, COMPLETIONS_PATH, MODELS_PATH, NODE_PATH

SECOND = AdapterId(8)
ANSWER_TOKENS = 30
DEAR = Price(10 * PRICE.prompt_price_units, 10 * PRICE.completion_price_units)
# One tokenizer joins letters that the other counts one by one.
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("Ġ", "the"), ("o", "r")]
TEXT = "the anchor of the other boat, the north and the moor"
SETTINGS = EngineSettings(
    max_streams=2, context_tokens=384, memory_bytes=400 << 20, compute="float32", compile=False
)


@dataclass
class Shop:
    """A node with two engines, their bases, and the models that it sells by base."""

    node: Node
    bases: tuple[LoadedBase, LoadedBase]
    engines: tuple[EmbeddedEngine, EmbeddedEngine]
    folder: Path

    @property
    def models(self) -> dict[str, EmbeddedEngine]:
        first, second = self.engines
        return {
            "small": first,
            "large": second,
            f"viz-adapter-{ADAPTER}": first,
            f"viz-adapter-{SECOND}": second,
        }


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedBase, LoadedBase]:
    root = tmp_path_factory.mktemp("bases")
    small = make_tiny_base(root / "small")
    large = make_tiny_base(root / "large", seed=9, merges=MERGES)
    return (
        replace(small, model=replace(small.model, name="small")),
        replace(large, model=replace(large.model, name="large")),
    )


@pytest.fixture
async def shop(bases: tuple[LoadedBase, LoadedBase], tmp_path: Path) -> AsyncIterator[Shop]:
    first = await EmbeddedEngine.start(bases[0], SETTINGS)
    second = await EmbeddedEngine.start(bases[1], replace(SETTINGS, context_tokens=256))
    file, other = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    write_random_adapter(file, bases[0], rank=4, seed=1)
    digest = write_random_adapter(other, bases[1], rank=4, seed=2)
    folder = tmp_path / "node"
    folder.mkdir()
    async with running_node(
        folder,
        engine=first,
        more_engines=[second],
        base_prices={bases[1].digest: DEAR},
        adapter_file=file,
    ) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        node.chain.put_adapter(SECOND, digest, bases[1].digest)
        weights = node.parts.publishing.path_of(digest)
        shutil.copyfile(other, weights)
        await node.parts.publishing.activate(SECOND)
        record = adapter_record(digest, weights, bases[1].digest, SECOND)
        await node.parts.catalogue.add(replace(record, name="moors"))
        yield Shop(node, bases, (first, second), folder)


def with_tokenizers(home: Path, *bases: LoadedBase) -> Path:
    """Return a buyer's folder in which these bases' tokenizers are known."""
    for number, base in enumerate(bases):
        folder = home / "tokenizers" / str(number)
        folder.mkdir(parents=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(base.directory / name, folder / name)
    return home


async def ask(client: BuyerClient, model: str, path: str = CHAT_PATH) -> tuple[Receipt, str]:
    what: dict[str, Any] = {"prompt": TEXT}
    if path == CHAT_PATH:
        what = {"messages": [{"role": "user", "content": TEXT}]}
    body = {"model": model, "max_tokens": ANSWER_TOKENS, "temperature": 0, "seed": 3, **what}
    async with client.ask(body, path) as answer:
        async for _ in answer:
            pass
    assert answer.receipt is not None
    return answer.receipt.receipt, answer.text


async def test_each_model_is_answered_by_its_base_and_counted_by_its_tokenizer(
    shop: Shop, tmp_path: Path
) -> None:
    """Four models, two tokenizers: the buyer recounts every receipt, and finds it right.

    The large base costs more; what was agreed for the small one does not stand against it.
    """
    home = with_tokenizers(tmp_path / "b", *shop.bases)
    counts: dict[str, int] = {}
    texts: set[str] = set()
    async with buying(shop.node, home, chain=shop.node.chain) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        for model, engine in shop.models.items():
            offer = await client.offer_of(model)
            assert (await client.node.counter(offer)).exact
            for path in (CHAT_PATH, COMPLETIONS_PATH):
                receipt, text = await ask(client, model, path)
                chat = [{"role": "user", "content": TEXT}]
                prompt = engine.render(chat) if path == CHAT_PATH else engine.encode(TEXT)
                assert receipt.prompt_tokens == len(prompt)
                assert receipt.completion_tokens == engine.count_tokens(text)
                price = DEAR if model == "large" else PRICE
                # Counted again, invented text may have more tokens than were generated and paid.
                billed = min(receipt.completion_tokens, ANSWER_TOKENS)
                assert receipt.amount_units == price.amount_units(receipt.prompt_tokens, billed)
                counts[model] = receipt.prompt_tokens
                texts.add(text)
        assert counts["small"] == counts[f"viz-adapter-{ADAPTER}"]
        assert counts["large"] == counts[f"viz-adapter-{SECOND}"] < counts["small"]
        assert len(texts) == 8, "each base and each adapter is a function of its own"
        spent = {key: client.channel.billed_units(key) for key in (BASE_MODEL, ADAPTER, SECOND)}
        assert all(spent.values()), "both bare bases are paid on one line, each adapter on its own"
    first, second = shop.engines
    assert first.adapters() == {ADAPTER} and second.adapters() == {SECOND}


async def test_the_node_lists_both_bases_and_each_offer_says_its_own(shop: Shop) -> None:
    """OpenAI's list, the description, the operator's figures."""
    async with aiohttp.ClientSession(base_url=shop.node.url) as http:
        async with http.get(MODELS_PATH) as response:
            listed = (await response.json())["data"]
        async with http.get(NODE_PATH) as response:
            info = NodeInfo.from_json(await response.json())
        async with http.get(f"{MODELS_PATH}/large") as response:
            assert (await response.json())["viz"]["base"]["arithmetic"] == "float32"
        async with http.get("/viz/v1/adapters") as response:
            adapters = (await response.json())["adapters"]
        bearer = {"Authorization": f"Bearer {shop.node.parts.terms.operator_token}"}
        async with http.get("/operator/v1/status", headers=bearer) as response:
            assert set((await response.json())["engines"]) == {"small", "large"}
        async with http.get("/metrics", headers=bearer) as response:
            figures = await response.text()
    assert [each["id"] for each in listed] == ["small", "large", *list(shop.models)[2:]]
    small, large = shop.bases
    assert {each["adapterId"]: each["baseModel"] for each in adapters} == {
        ADAPTER: hex_of(small.digest),
        SECOND: hex_of(large.digest),
    }
    for offer in info.adapters:
        engine = shop.models[offer.model]
        base = info.base_of(offer)
        assert base == offer.base
        assert (base.digest, base.tokenizer_digest, base.context_tokens) == (
            engine.model.digest,
            engine.model.tokenizer_digest,
            engine.model.context_tokens,
        )
    assert info.base_digest == small.digest, "who reads no `base` is told the first one"
    for name in ("small", "large"):
        assert f'viz_engine{{base="{name}",name="slots"}}' in figures


async def test_a_count_by_the_other_base_s_tokenizer_is_caught(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first base's tokenizer has more tokens for a text: billed by it, the second's is dear."""
    first, second = shop.engines
    monkeypatch.setattr(second, "render", first.render)
    home = with_tokenizers(tmp_path / "b", *shop.bases)
    async with buying(shop.node, home) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert await ask(client, "small")
        with pytest.raises(NodeNotTrusted):
            await ask(client, f"viz-adapter-{SECOND}")


async def test_a_tokenizer_that_is_not_known_is_said_and_the_other_base_stays_exact(
    shop: Shop, tmp_path: Path
) -> None:
    """One unknown tokenizer must not loosen the count of what is counted exactly."""
    home = with_tokenizers(tmp_path / "b", shop.bases[0])
    async with buying(shop.node, home) as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        with structlog.testing.capture_logs() as logs:
            await ask(client, "large")
        assert any("not counted again" in each["event"] for each in logs)
        await ask(client, "small")
        assert (await client.node.counter(await client.offer_of("small"))).exact
        assert not (await client.node.counter(await client.offer_of("large"))).exact
        # The same name with another tokenizer is no other base: what was exact stays so.
        info = client.info
        swapped = replace(info.adapters[0], base=info.adapters[1].base)
        client.node.info = replace(info, adapters=(swapped, *info.adapters[1:]))
        with pytest.raises(NodeNotTrusted, match="was counted by tokenizer"):
            await client.offer_of("small")


async def test_an_adapter_without_its_base_is_left_out_and_refused(
    shop: Shop, bases: tuple[LoadedBase, LoadedBase]
) -> None:
    """An operator who takes an entry out is told which base the adapter lacks; others are sold."""
    await shop.node.runner.cleanup()
    await shop.node.store.close()
    only = await EmbeddedEngine.start(bases[0], SETTINGS)
    with structlog.testing.capture_logs() as logs:
        async with running_node(
            shop.folder,
            chain=shop.node.chain,
            engine=only,
            adapter_file=shop.folder.parent / "first.safetensors",
        ) as node:
            sold = [offer.model for offer in node.parts.catalogue.offers()]
            assert sold == ["small", f"viz-adapter-{ADAPTER}"]
            with pytest.raises(AdapterNotServable, match=r"\[\[engine\]\].*base_digest") as caught:
                await node.parts.publishing.activate(SECOND)
            assert hex_of(bases[1].digest) in caught.value.detail
    (left,) = [each for each in logs if each["event"] == "adapter left out"]
    assert left["adapter_id"] == SECOND and hex_of(bases[1].digest) in left["reason"]
