"""A buyer at a node that changes what it quotes before the buyer has signed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from multidict import CIMultiDict
from tests.integration.api.harness import ADAPTER, NODE_KEY
from tests.integration.buyer.test_untrue_node import MODEL, PROMPT_TOKENS, Stream, ask

from viz.buyer.answers.admission import ADMISSIONS
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.open_request import OpenRequest
from viz.domain.eip712 import sign_compact
from viz.domain.pricing import Price
from viz.domain.typed_data import Quote
from viz.domain.units import Units
from viz.errors import NodeRefused, PriceAboveCap
from viz.protocol.messages import AccessToken
from viz.protocol.payment import Challenge, NeedVoucher, SignedQuote

CAP = 5_000
CHEAP = Price(2_000_000, 6_000_000)
CHEAPER = Price(1_000_000, 3_000_000)
DEAR = Price(50_000_000, 100_000_000)  # as much as this buyer's limits allow


@dataclass(frozen=True)
class Terms:
    """What a 402 quotes and asks for."""

    price: Price
    max_tokens: int
    required_units: Units


class Refusal(Stream):
    """A 402 with its challenge."""

    status = 402

    def __init__(self, challenge: Challenge) -> None:
        super().__init__([b'{"code": "payment-required", "detail": "pay first"}'])
        self.headers = CIMultiDict({"WWW-Authenticate": challenge.to_header()})

    async def read(self, size: int) -> bytes:
        return self._frames.pop() if self._frames else b""


class Dealer:
    """Answers each attempt with a 402, on the terms that come next; keeps the last ones."""

    def __init__(self, client: BuyerClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.terms: list[Terms] = []
        self.asked = 0
        monkeypatch.setattr(client.api, "generate", self._generate)

    @asynccontextmanager
    async def _generate(
        self, path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
    ) -> AsyncIterator[Stream]:
        self.asked += 1
        terms = self.terms.pop(0) if len(self.terms) > 1 else self.terms[0]
        client, info = self.client, self.client.info
        offer = await client.offer_of(MODEL)
        quote = Quote(
            info.node,
            client.signer,
            ADAPTER,
            offer.weights_digest,
            info.tokenizer_digest,
            terms.price.prompt_price_units,
            terms.price.completion_price_units,
            terms.max_tokens,
            info.chain_time_s + 60,
        )
        signed = SignedQuote(
            quote, sign_compact(NODE_KEY, client.voucher_signer.domain.digest(quote))
        )
        need = NeedVoucher(ADAPTER, 0, client.channel.total_units, terms.required_units, ())
        yield Refusal(
            Challenge("1", "r", info.chain_id, info.settlement, info.node, 0, 0, signed, need)
        )


@pytest.fixture
def dealer(buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch) -> Dealer:
    buyer.limits = replace(
        buyer.limits, request_units=CAP, prompt_price_stated=True, completion_price_stated=True
    )
    return Dealer(buyer, monkeypatch)


FIRST = Terms(CHEAP, 16, CHEAP.amount_units(PROMPT_TOKENS, 4))


@pytest.mark.parametrize(
    ("then", "max_tokens", "most_units"),
    [
        (Terms(DEAR, 16, CAP + 1), 16, CAP),
        (Terms(DEAR, 10_000, CAP + 1), 10_000, CAP),
        (Terms(CHEAP, 10_000, CHEAP.amount_units(400, 16) + 1), 16, CHEAP.amount_units(400, 16)),
    ],
    ids=["dearer", "dearer and longer", "longer than was asked for"],
)
async def test_a_quote_that_changes_between_never_costs_more_than_the_cap(
    dealer: Dealer, then: Terms, max_tokens: int, most_units: Units
) -> None:
    """One step is paid on one quote, the next asked for on another: what was allowed holds."""
    client = dealer.client
    dealer.terms = [FIRST, then]
    with pytest.raises(PriceAboveCap, match=r"at most, and needs|justifies"):
        await ask(client, max_tokens=max_tokens)
    assert FIRST.required_units <= client.channel.total_units <= most_units
    # A request that failed is no allowance for the one after it.
    dealer.terms = [then]
    with pytest.raises(PriceAboveCap):
        await ask(client, max_tokens=max_tokens)
    assert client.channel.total_units <= most_units


async def test_signing_ahead_on_a_dearer_quote_stays_below_the_cap(dealer: Dealer) -> None:
    """What is due is below the cap, and what is signed ahead beside it may not go above."""
    dealer.terms = [FIRST, Terms(DEAR, 10_000, CAP - 1)]
    with pytest.raises(NodeRefused, match="keeps asking"):
        await ask(dealer.client, max_tokens=10_000)
    assert dealer.client.channel.total_units == CAP


async def test_the_record_of_a_request_has_the_price_of_its_latest_attempt(
    dealer: Dealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed compares a late bill with it; it had the first quote's."""
    signer = dealer.client.voucher_signer
    kept: list[Price | None] = []
    keep = signer.keep

    def noting(open_request: OpenRequest) -> None:
        kept.append(open_request.price)
        keep(open_request)

    monkeypatch.setattr(signer, "keep", noting)
    dealer.terms = [FIRST, Terms(CHEAPER, 16, FIRST.required_units)]
    with pytest.raises(NodeRefused, match="keeps asking"):
        await ask(dealer.client, max_tokens=16)
    assert kept[-1] == CHEAPER and CHEAP in kept


async def test_a_node_that_refuses_the_same_again_gets_few_attempts(dealer: Dealer) -> None:
    """Beside an answer that runs, 518 times: a slow node held each question for hours."""
    signer = dealer.client.voucher_signer
    dealer.terms = [FIRST]
    with signer.open_request(ADAPTER, b"{}") as running:
        running.began = True
        with pytest.raises(NodeRefused, match="keeps asking"):
            await ask(dealer.client, max_tokens=16)
    assert dealer.asked <= ADMISSIONS + 1
