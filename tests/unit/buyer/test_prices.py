"""What a buyer pays for a million tokens: what it agreed to, a little more with a word, no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.test_ledger import opened

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.prices import RECORD, Prices, limits_in
from viz.domain.pricing import Price
from viz.domain.units import BASE_MODEL, AdapterId
from viz.errors import BooksMismatch, PriceAboveCap

TIDES = AdapterId(7)
DEFAULT = limits_in(DEPLOYMENT)
FIRST = Price(2_000_000, 6_000_000)


class Buyer:
    """A buyer's prices, read anew from its ledger for each price, as by one process each."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.said: list[str] = []

    def pays(self, price: Price, limits: Limits = DEFAULT) -> None:
        ledger = opened(self.home)
        try:
            prices = Prices(ledger, DEPLOYMENT, self.said.append)
            prices.agree(TIDES, "viz-adapter-7", price, limits)
        finally:
            ledger.close()


@pytest.fixture
def buyer(tmp_path: Path) -> Buyer:
    return Buyer(tmp_path)


@pytest.mark.parametrize(
    ("price", "option"),
    [
        (Price(4_000_000, 6_000_000), "--max-prompt-price 4"),
        (Price(2_000_000, 12_000_000), "--max-completion-price 12"),
        (Price(4_000_000, 12_000_000), "--max-prompt-price 4 --max-completion-price 12"),
        (Price(2_500_001, 6_000_000), "--max-prompt-price 2.500001"),
    ],
)
def test_a_doubled_price_is_not_paid_without_the_buyers_word(
    buyer: Buyer, price: Price, option: str
) -> None:
    """Protects from a node that raises its price: the refusal tells both prices and the option."""
    buyer.pays(FIRST)
    with pytest.raises(PriceAboveCap, match=rf"last accepted.* 2 vUSD.*{option}$"):
        buyer.pays(price)
    buyer.pays(FIRST)
    assert buyer.said == []


def test_a_slow_rise_ends_a_quarter_above_what_was_agreed(buyer: Buyer) -> None:
    """Protects from many small steps: none of them raises what was agreed, and each is said."""
    buyer.pays(FIRST)
    paid = 0
    with pytest.raises(PriceAboveCap):
        for percent in range(105, 200, 5):
            buyer.pays(Price(2_000_000, 60_000 * percent))
            paid = percent
    assert paid == 125 and len(buyer.said) == 5
    assert buyer.said[0] == (
        "viz-adapter-7 costs 2 vUSD a million prompt tokens and 6.3 vUSD a million completion "
        "tokens now; it was 2 vUSD a million prompt tokens and 6 vUSD a million completion tokens"
    )


def test_a_price_that_fell_is_the_agreed_one(buyer: Buyer) -> None:
    """Protects from a bait: what was paid last time is what a rise is measured by."""
    for price in (FIRST, Price(1_000_000, 3_000_000)):
        buyer.pays(price)
    with pytest.raises(PriceAboveCap):
        buyer.pays(FIRST)
    assert len(buyer.said) == 1


def test_what_was_free_is_not_paid_without_the_buyers_word(buyer: Buyer) -> None:
    """Protects from a first answer for nothing: any price is above nothing."""
    buyer.pays(Price(0, 0))
    with pytest.raises(PriceAboveCap):
        buyer.pays(Price(1, 0))


def test_a_cap_that_the_buyer_names_agrees_to_what_is_within_it(buyer: Buyer) -> None:
    """The word is a cap; it holds for its half of the price alone, and is remembered."""
    buyer.pays(FIRST)
    dear = Price(2_000_000, 12_000_000)
    word = limits_in(DEPLOYMENT, completion_price_units=12_000_000)
    with pytest.raises(PriceAboveCap, match="--max-prompt-price 4"):
        buyer.pays(Price(4_000_000, 12_000_000), word)
    with pytest.raises(PriceAboveCap, match=r"pays at most .* and 12 vUSD"):
        buyer.pays(Price(2_000_000, 12_000_001), word)
    buyer.pays(dear, word)
    buyer.pays(dear)
    assert len(buyer.said) == 1, "a change is said once"


def test_caps_are_tokens_whatever_the_decimals() -> None:
    """Protects whoever pays in a token of 18 decimals, or of none, from caps that mean nothing."""
    assert limits_in(DEPLOYMENT) == Limits()
    fine = limits_in(replace(DEPLOYMENT, token_decimals=18))
    assert (fine.prompt_price_units, fine.request_units) == (50 * 10**18, 10**18)
    assert limits_in(replace(DEPLOYMENT, token_decimals=0)).completion_price_units == 100
    assert limits_in(DEPLOYMENT, request_units=7).request_units == 7


def test_each_base_model_has_a_price_of_its_own(tmp_path: Path) -> None:
    """All have the adapter id 0; what was agreed for a small one says nothing of a large one.

    A record of the time when a node had one base holds for every base until that has its own.
    """
    ledger: BuyerLedger = opened(tmp_path)
    try:
        prices = Prices(ledger, DEPLOYMENT, lambda said: None)
        prices.agree(BASE_MODEL, "small", FIRST, DEFAULT)
        dear = Price(20_000_000, 20_000_000)
        prices.agree(BASE_MODEL, "large", dear, DEFAULT)
        with pytest.raises(PriceAboveCap):
            prices.agree(BASE_MODEL, "small", dear, DEFAULT)
        assert set(ledger.kept_record(RECORD)) == {"0:small", "0:large"}
        ledger.keep_record(RECORD, {"0": ledger.kept_record(RECORD)["0:small"]})
        with pytest.raises(PriceAboveCap):
            Prices(ledger, DEPLOYMENT).agree(BASE_MODEL, "any", dear, DEFAULT)
    finally:
        ledger.close()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"7": {}}', b'{"7": {"agreed": ["1", "2"]}}'])
def test_prices_that_cannot_be_read_stop_before_paying(tmp_path: Path, content: bytes) -> None:
    """Protects from agreeing anew to anything because a file was damaged."""
    ledger: BuyerLedger = opened(tmp_path)
    ledger.keep_record(RECORD, {})
    next(tmp_path.rglob("prices.json")).write_bytes(content)
    with pytest.raises(BooksMismatch, match=r"prices\.json"):
        Prices(ledger, DEPLOYMENT)
    ledger.close()
