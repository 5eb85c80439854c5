"""What a buyer makes of what nodes say, where no chain tells who is right."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from tests.fakes.chain import DEPLOYMENT, FakeChain, address_of
from tests.fakes.remote_nodes import BASE, base_offer, offer

from viz.buyer.network.buyer import with_words
from viz.buyer.network.finder import NodeFinder, one_each
from viz.clock import SystemClock
from viz.domain.units import ZERO_HASH, AdapterId, Hash32
from viz.errors import NodeUnreachable
from viz.protocol.messages import AdapterOffer, ServedBase, unnamed
from viz.services.market.discovery import NodeOffers, unchecked_models

LIE = Hash32(b"\1" * 32)


def node(number: int, *offers: AdapterOffer, base: Hash32 = BASE) -> NodeOffers:
    return NodeOffers(
        address_of(number), f"http://n{number}", ServedBase(base, ZERO_HASH, 2048), offers
    )


def test_where_nodes_contradict_each_other_most_of_them_count() -> None:
    """One node cannot put its own weights under an id that others serve; and it is said."""
    honest = [node(1, offer(7)), node(2, offer(7))]
    liar = node(3, offer(7, 0, weights_digest=LIE))
    with structlog.testing.capture_logs() as logs:
        (found,) = one_each(unchecked_models([liar, *honest]))
    assert {each.node for each in found.offers} == {address_of(1), address_of(2)}
    assert "--rpc" in logs[0]["event"]


def test_base_models_are_known_by_their_digest() -> None:
    """Two bases of one name are two models: neither replaces the other."""
    other = AdapterOffer(base_offer().adapter_id, "fake", ZERO_HASH, 1, 1)
    found = one_each(unchecked_models([node(1, base_offer()), node(2, other, base=ZERO_HASH)]))
    assert {each.weights_digest for each in found} == {BASE, ZERO_HASH}


def test_words_find_a_model_by_all_that_is_told_of_it() -> None:
    models = unchecked_models([node(1, offer(7), offer(8, description="Of FERRIES"))])
    assert [int(each.adapter_id) for each in with_words(models, ("Ferries", "sea"))] == [8]
    assert with_words(models, ("ferries", "part 7")) == ()


def test_a_node_that_names_nothing_hides_no_name() -> None:
    """Protects the skill's name and titles: who activated an adapter unnamed knows neither."""
    silent = offer(7, name=unnamed(AdapterId(7)), description="", works=(), card=None)
    for nodes in ([node(1, silent), node(2, offer(7))], [node(1, offer(7)), node(2, silent)]):
        (found,) = unchecked_models(nodes)
        assert found.name == "tides 7" and found.works[0].title == "The sea, part 7"
        assert len(found.offers) == 2


class Silent:
    """An HTTP client of other nodes, none of which answers."""

    async def ask(self, method: str, url: str, **_: Any) -> Any:
        raise NodeUnreachable(f"{url} does not answer")

    async def close(self) -> None:
        pass

    async def call(self, method: str, url: str, **_: Any) -> Any:
        raise NodeUnreachable(f"{url} does not answer")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("chain", [True, False])
async def test_an_address_that_nobody_named_is_not_told_as_a_failure(
    named: bool, chain: bool
) -> None:
    """Without a node of its own a buyer read that 127.0.0.1:8402, "which you named", is away."""
    url, http = "http://127.0.0.1:8402", Silent()
    finder = NodeFinder(
        DEPLOYMENT,
        SystemClock(),
        known_http=http,
        strangers_http=http,
        chain=FakeChain(b"\x01" * 32) if chain else None,
        urls=[url],
        met={},
        named=named,
    )
    with structlog.testing.capture_logs() as logs, pytest.raises(NodeUnreachable) as told:
        await finder.models()
    loud = [each for each in logs if each["log_level"] != "debug" and each.get("url") == url]
    assert (url in told.value.detail, bool(loud)) == (named, named)
    assert ("in the directory" in told.value.detail) is chain
    assert ("--rpc" in told.value.detail) is not chain
