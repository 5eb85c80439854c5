"""Strangers serve another base model under a name that a buyer asks for: who is paid is the buyer's
choice, and never a matter of how many nodes say so (threat 160).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest
from tests.fakes.chain import DEPLOYMENT, address_of
from tests.fakes.remote_nodes import Remote, announce, info, serving
from tests.integration.buyer.test_network import (
    DEPOSIT,
    MODEL,
    PRICES,
    Network,
    chat,
    network,
    read,
)
from tests.integration.buyer.test_network_ended import end_all

from viz.buyer.network import naming
from viz.buyer.network.budget import Budget
from viz.buyer.network.control import NetworkControl
from viz.buyer.proxy.proxy import running_proxy
from viz.buyer.terms.prices import limits_in
from viz.domain.display import prices
from viz.domain.units import Hash32
from viz.errors import ChannelUnknown, PriceAboveCap, UnknownModel
from viz.protocol.messages import AdapterOffer
from viz.services.market import discovery

__all__ = ["network"]  # the fixture

NAME = "fake"  # of the base model of both nodes
OTHER = Hash32(b"\1" * 32)
STRANGERS = 3


def stranger(number: int, digest: Hash32 = OTHER, name: str = NAME, units: int = 1) -> Remote:
    """Return a node that serves a base model with this digest under this name, for less."""
    node = address_of(0x900 + number)
    offer = AdapterOffer(0, name, digest, units, units)  # type: ignore[arg-type]
    return Remote(node, info(node, [offer], base_model=name, base_digest=digest))


@asynccontextmanager
async def beside(network: Network, *strangers: Remote) -> AsyncIterator[None]:
    """Have these nodes in the directory for the time of the context."""
    async with serving(*strangers):
        announce(network.chain, *strangers)
        yield
    for each in strangers:
        del network.chain.directory[each.node]


def digest(network: Network) -> Hash32:
    return network.nodes["b"].engine.model.digest


def honest(network: Network) -> str:
    return f"{NAME}@{digest(network).hex()[:12]}"


def many() -> list[Remote]:
    return [stranger(number) for number in range(STRANGERS)]


def as_default(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the base model of the nodes be the default one."""
    for module in (naming, discovery):
        monkeypatch.setattr(module, "DEFAULT_BASE_DIGEST", digest(network).hex())
        monkeypatch.setattr(module, "DEFAULT_BASE", NAME)


async def test_strangers_change_nothing_for_who_used_the_name_before(network: Network) -> None:
    """One stranger made every buyer's request by the name fail."""
    async with network.buyer() as buyer:
        await read(buyer, chat(model=NAME))
    async with beside(network, *many()), network.buyer() as buyer:
        assert (await buyer.model(NAME)).weights_digest == digest(network)
        answer = await read(buyer, chat(model=NAME, seed=2))
        assert answer.parts[0].node == network.address("b")


async def test_a_new_buyer_is_told_each_choice_and_names_one(network: Network) -> None:
    """More nodes and a lower price do not win; what was chosen once is what the name means."""
    others = many()
    async with beside(network, *others), network.buyer() as buyer:
        with pytest.raises(UnknownModel) as refused:
            await read(buyer, chat(model=NAME))
        assert f"{honest(network)} (2 nodes, from " in refused.value.detail
        assert f"{NAME}@{OTHER.hex()[:12]} ({STRANGERS} nodes, from " in refused.value.detail
        assert not network.chain.channels
        for wanted in (honest(network), honest(network).upper()[:4] + honest(network)[4:], NAME):
            answer = await read(buyer, chat(model=wanted, seed=len(wanted)))
            assert answer.parts[0].node == network.address("b")
    async with network.buyer() as buyer:
        await buyer.model(honest(network))


async def test_a_command_takes_the_name_with_the_digest(network: Network) -> None:
    """The same reference, as `viz buyer ask` passes it on; the usual base is the one used."""
    written: list[str] = []

    async def write(text: str) -> None:
        written.append(text)

    await end_all(network)
    async with beside(network, *many()), network.buyer() as buyer:
        control, body = NetworkControl(buyer), chat(max_tokens=20)
        with pytest.raises(UnknownModel, match="name a model"):
            await control.ask({**body, "model": None}, write, write)
        await control.ask({**body, "model": honest(network)}, write, write)
        done = await control.ask({**body, "model": None, "seed": 5}, write, write)
        assert (done["model"], done["parts"][0]["node"]) == (NAME, network.address("b"))


async def test_programs_get_ids_that_they_can_ask_for(network: Network) -> None:
    """The proxy lists each base under an id of its own, and the chosen one under its name."""
    other = f"{NAME}@{OTHER.hex()[:12]}"
    async with (
        beside(network, *many()),
        network.buyer() as buyer,
        running_proxy(buyer) as url,
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as program,
    ):
        listed = {model.id async for model in program.models.list()}
        assert listed == {MODEL, other, honest(network)}
        assert (await program.models.retrieve(honest(network))).id == honest(network)
        body = chat(model=honest(network), max_tokens=20)
        done = await program.chat.completions.create(**body)
        assert done.choices[0].message.content
        assert {model.id async for model in program.models.list()} == {MODEL, other, NAME}


async def test_who_sold_something_before_gains_no_other_name(network: Network) -> None:
    """One cheap answer under any name would buy a stranger the names that others made known."""
    async with network.buyer() as buyer:
        await read(buyer, chat())  # an adapter, at B: here B is the one that sold something
    async with beside(network, *many()), network.buyer() as buyer:
        with pytest.raises(UnknownModel, match="is the name of several models"):
            await buyer.model(NAME)


async def test_the_default_base_model_keeps_its_name(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the buyer used by another name, and whoever it paid."""
    bought = stranger(1, name="Bar")
    async with beside(network, bought), network.buyer() as buyer:
        buyer._note_used("Bar", await buyer.model("Bar"))
    as_default(network, monkeypatch)
    async with beside(network, *many()), network.buyer() as buyer:
        assert (await buyer.model(NAME)).weights_digest == digest(network)
    await end_all(network)
    async with beside(network, *many()), network.buyer() as buyer:
        assert (await buyer.usual_model()).weights_digest == digest(network)


async def test_nothing_else_is_ever_meant_by_the_default_base_models_name(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's model got the name while no node sold the default one, and kept it for good."""
    for each in (naming, discovery):
        monkeypatch.setattr(each, "DEFAULT_BASE", "Tides")  # an adapter at B has this title
    async with network.buyer() as buyer:
        for wanted in ("Tides", " tides "):
            with pytest.raises(UnknownModel, match="no known node serves"):
                await read(buyer, chat(model=wanted))
        assert not buyer._file.read().names
        buyer._file.change(lambda record: record.meaning(["tides"], MODEL))
        with pytest.raises(UnknownModel, match="no known node serves"):
            await buyer.model("Tides")
    assert not network.chain.channels


async def test_the_list_shows_no_stranger_under_the_default_base_models_name(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is listed alone is one to ask by; asking by this one was refused."""
    monkeypatch.setattr(naming, "DEFAULT_BASE", NAME)

    async def shown() -> set[str]:
        async with beside(network, stranger(1)), network.buyer() as buyer:
            models = await buyer.models()
            return set(naming.shown_ids(models, naming.meant_without_record))

    assert await shown() == {MODEL, honest(network), f"{NAME}@{OTHER.hex()[:12]}"}
    as_default(network, monkeypatch)
    assert await shown() == {MODEL, NAME, f"{NAME}@{OTHER.hex()[:12]}"}


async def test_looking_at_a_model_gives_its_title_no_meaning(network: Network) -> None:
    """A program that lists and looks, without a key, fixed a stranger's title for good."""
    async with network.buyer() as buyer:
        assert (await buyer.model_entry("Tides"))["id"] == MODEL
        assert not buyer._file.read().names
        await read(buyer, chat(model="Tides"))
        assert buyer._file.read().names == {"tides": MODEL}


async def test_a_stranger_gives_the_default_base_model_no_other_name(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sold the default under another model's name, and the buyer paid for the default there."""
    as_default(network, monkeypatch)
    acme, thief = stranger(1, name="acme", units=9), stranger(2, digest(network), "Acme")
    allowed = Budget(DEPOSIT, nodes=frozenset({acme.node, network.address("b")}))
    async with beside(network, acme, thief):
        urls = (acme.url, thief.url, network.nodes["b"].url)
        for chain in (True, False):
            way: dict[str, Any] = {"chain": chain, "urls": urls}
            async with network.buyer(budget=allowed, **way) as buyer:
                meant = await buyer.model("acme")
                assert (meant.weights_digest, meant.model) == (OTHER, "acme")
                assert {each["id"] for each in await buyer.model_entries()} >= {"acme", NAME}
            async with network.buyer(**way) as buyer:
                with pytest.raises(UnknownModel, match="is the name of several models"):
                    await buyer.model("acme")
        only = Budget(DEPOSIT, nodes=frozenset({network.address("b")}))
        async with network.buyer(budget=only) as buyer:
            with pytest.raises(ChannelUnknown, match="none of the nodes that you allow"):
                await buyer.model("acme")
    assert not network.chain.channels


@pytest.mark.parametrize(
    "name", ["Viz-Adapter-99", "viz-adapter-99 ", "viz-adapter-1\u200b", "a@b"]
)
async def test_no_base_model_is_taken_for_another_models_id(network: Network, name: str) -> None:
    """A base model in another case was paid as the adapter, and a look-alike was shown as it."""
    thief = stranger(1, name=name)
    async with beside(network, thief):
        for chain in (True, False):
            way: dict[str, Any] = {"chain": chain, "urls": (thief.url, network.nodes["b"].url)}
            async with network.buyer(**way) as buyer:
                assert OTHER not in {each.weights_digest for each in await buyer.models()}
                with pytest.raises(UnknownModel):
                    await buyer.model("viz-adapter-99")


async def test_the_price_told_is_that_of_the_node_asked(network: Network) -> None:
    """The line before the answer had the cheapest price, of a node that was not allowed."""
    told: list[str] = []

    async def tell(text: str) -> None:
        told.append(text)

    async def write(text: str) -> None:
        pass

    only = Budget(DEPOSIT, nodes=frozenset({network.address("c")}))
    async with network.buyer(budget=only) as buyer:
        await NetworkControl(buyer).ask(chat(model="Tides", max_tokens=20), write, tell)
    dear = PRICES["c"]
    assert prices(dear.prompt_price_units, dear.completion_price_units, DEPLOYMENT) in told[0]


async def test_a_wrong_reference_is_told_with_the_right_ones(network: Network) -> None:
    """The list names each base model so that it can be asked for; digits may be written 0xAB."""
    async with beside(network, *many()), network.buyer() as buyer:
        with pytest.raises(UnknownModel) as refused:
            await buyer.model(f"{NAME}@ffffffffffff")
        for each in (honest(network), f"{NAME}@{OTHER.hex()[:12]}"):
            assert each in refused.value.detail
        written = f"{NAME}@0x{digest(network).hex()[:12].upper()}"
        assert (await buyer.model(written)).weights_digest == digest(network)


async def test_what_the_buyer_cannot_use_is_no_choice(network: Network) -> None:
    """Nodes that are not allowed, or cost more than the caps, make no name ambiguous."""
    allowed = Budget(DEPOSIT, nodes=frozenset({network.address("c")}))
    dear = [stranger(number, units=10**12) for number in range(STRANGERS)]
    async with beside(network, *many()), network.buyer(budget=allowed) as buyer:
        assert (await buyer.model(NAME)).weights_digest == digest(network)
    async with beside(network, *dear), network.buyer() as buyer:
        assert (await buyer.model(NAME)).weights_digest == digest(network)


async def test_a_name_that_was_used_moves_to_no_stranger(network: Network) -> None:
    """Neither while its nodes are away, nor when they cost too much, nor by another title."""
    cheap = replace(limits_in(DEPLOYMENT), completion_price_units=1, prompt_price_units=1)
    async with network.buyer() as buyer:
        await read(buyer, chat(model=NAME))
        await read(buyer, chat(model="Tides"))
    async with beside(network, *many(), stranger(9, name="Tides")):
        async with network.buyer(limits=cheap) as buyer:
            with pytest.raises(PriceAboveCap):
                await read(buyer, chat(model=NAME))
        async with network.buyer() as buyer:
            assert (await buyer.model("Tides")).model == MODEL
        only = Budget(DEPOSIT, nodes=frozenset({address_of(0x900)}))
        async with network.buyer(budget=only) as buyer:
            with pytest.raises(UnknownModel, match=f"meant {honest(network)} when you last used"):
                await read(buyer, chat(model=NAME))
        for name in network.nodes:
            del network.chain.directory[network.address(name)]
        async with network.buyer() as buyer:
            for wanted in (NAME, "tides"):
                with pytest.raises(UnknownModel, match="when you last used it"):
                    await read(buyer, chat(model=wanted))
            assert (await buyer.model(f"{NAME}@{OTHER.hex()}")).weights_digest == OTHER
    assert [each.node for each in network.chain.channels.values()] == [network.address("b")]


async def test_many_nodes_rename_no_base(network: Network) -> None:
    """Most nodes call the honest base otherwise: its name still means it, and not theirs alone."""
    renaming = [stranger(10 + number, digest(network), "old", 10**9) for number in range(STRANGERS)]
    async with beside(network, *many(), *renaming), network.buyer() as buyer:
        with pytest.raises(UnknownModel, match=honest(network)):
            await buyer.model(NAME)
        assert (await read(buyer, chat(model=honest(network)))).parts[0].billed
        assert (await buyer.model(NAME)).weights_digest == digest(network)


async def test_a_digest_that_begins_alike_is_no_way_in(network: Network) -> None:
    """Anybody can claim a digest: one with the same first digits is refused, or told apart."""
    alike = Hash32(digest(network)[:6] + b"\2" * 26)
    longer = f"{NAME}@{digest(network).hex()[:13]}"
    async with network.buyer() as buyer:
        await read(buyer, chat(model=honest(network)))
    async with beside(network, stranger(1, alike)):
        async with network.buyer() as buyer:
            assert (await buyer.model(honest(network))).weights_digest == digest(network)
        async with network.buyer(home=network.folder / "new") as buyer:
            with pytest.raises(UnknownModel, match=longer):
                await buyer.model(honest(network))
            assert (await buyer.model(longer)).weights_digest == digest(network)


async def test_an_allowed_node_that_does_not_serve_it_is_told(network: Network) -> None:
    """The refusal is about the list of nodes and not about the name."""
    only = Budget(DEPOSIT, nodes=frozenset({address_of(5)}))
    async with network.buyer(budget=only) as buyer:
        with pytest.raises(ChannelUnknown, match="allow"):
            await read(buyer, chat(model=NAME))


async def test_an_allowed_node_that_did_not_answer_is_told(network: Network) -> None:
    """Of a node that was away it was said that it does not serve the model."""
    away = network.address("b")
    await network.nodes["b"].runner.cleanup()
    async with network.buyer(budget=Budget(DEPOSIT, nodes=frozenset({away}))) as buyer:
        with pytest.raises(ChannelUnknown, match=f"did not answer, or sold nothing: {away}"):
            await read(buyer, chat(model=NAME))
