"""Questions about the market: filters, pages that hold still, and what is not a question."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.chain import address_of

from viz.domain.units import AdapterId, ContentId, Hash32
from viz.errors import InvalidRequest
from viz.protocol.market import MarketModel, MarketOffer, MarketPage, MarketWork
from viz.protocol.messages import adapter_model
from viz.services.market.market_index import MAX_WORDS, MarketIndex, MarketQuery, words_of

BASE = Hash32(b"\x0b" * 32)
A, B = address_of(0xA), address_of(0xB)


def entry(number: int, *prices: tuple[Any, int], **changes: Any) -> MarketModel:
    offers = tuple(
        MarketOffer(node, f"http://{node}", units, 3 * units, 2048, 5, 9) for node, units in prices
    )
    values: dict[str, Any] = {
        "adapter_id": AdapterId(number),
        "model": adapter_model(AdapterId(number)),
        "weights_digest": Hash32(number.to_bytes(32, "big")),
        "base_digest": BASE,
        "told_by": A,
        "name": f"tides {number}",
        "works": (MarketWork(ContentId(number), 10_000, title="Varn Point", credit="Alma"),),
        "offers": offers,
    }
    return MarketModel(**{**values, **changes})


INDEX = MarketIndex(
    [
        entry(3, (A, 5), (B, 2), name="Épée"),
        entry(1, (A, 9)),
        entry(2, (B, 1), description="Knows the Ferry", base_digest=Hash32(b"\1" * 32)),
    ],
    nodes=2,
    now_s=77,
)


def found(**query: Any) -> tuple[list[int], MarketPage]:
    page = MarketPage.from_json(json.loads(INDEX.page(MarketQuery(**query))))
    return [int(each.adapter_id) for each in page.models], page


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, [1, 2, 3]),
        ({"words": words_of("FERRY knows")}, [2]),
        ({"words": words_of("épée")}, [3]),
        ({"words": words_of("alma varn")}, [1, 2, 3]),
        ({"words": words_of("alma nobody")}, []),
        ({"adapter_id": AdapterId(2)}, [2]),
        ({"content_id": ContentId(3)}, [3]),
        ({"base_digest": BASE}, [1, 3]),
        ({"node": A}, [1, 3]),
        ({"max_prompt_units": 2}, [2, 3]),
        ({"max_completion_units": 3}, [2]),
        ({"node": A, "max_prompt_units": 5}, [3]),
    ],
)
def test_a_question_finds_what_it_asks_for(query: dict[str, Any], ids: list[int]) -> None:
    """A buyer who asks for a skill at a price gets these models, and the others not."""
    got, page = found(**query)
    assert got == ids and page.total == len(ids)
    assert (page.nodes, page.updated_at_s, page.next) == (2, 77, None)


def test_offers_beyond_the_price_are_not_shown() -> None:
    """What is answered to a price is only what is sold at it."""
    _, page = found(max_prompt_units=2)
    assert [[each.node for each in model.offers] for model in page.models] == [[B], [B]]


def test_pages_join_to_the_whole_while_the_market_changes() -> None:
    """A model that vanishes between two pages hides none of the others."""
    got, page = found(limit=2)
    assert (got, page.total, page.next is not None) == ([1, 2], 3, True)
    less = MarketIndex([entry(1, (A, 9)), entry(3, (A, 5))])
    rest = json.loads(less.page(MarketQuery(after=page.next or "", limit=2)))
    assert [each["adapterId"] for each in rest["models"]] == [3] and "next" not in rest
    again, last = found(after=page.next or "", limit=1)
    assert (again, last.next) == ([3], None)


@pytest.mark.parametrize("after", ["x", "-", "99999999999-00", "1-" + "0" * 65, "²-00"])
def test_a_page_that_never_was_is_refused(after: str) -> None:
    with pytest.raises(InvalidRequest):
        found(after=after)


def test_questions_are_bounded() -> None:
    """Strangers' questions are looked for in every model, so they are short."""
    for text in ("a " * (MAX_WORDS + 1), "a" * 300):
        with pytest.raises(InvalidRequest):
            words_of(text)
