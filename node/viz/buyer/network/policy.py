"""Choose the node to ask, by price, measured latency and reliability. Holds all the weights.

Does no I/O. A node's score is a sum; the lowest is asked first:

    score = PRICE * log2(cost / cheapest cost)         what the request would cost there
          + LATENCY * log2(first text / fastest)       as this buyer measured it, else as the market
          + RELIABILITY * share of unfinished answers  among the latest, 0 to 1
          + DEPOSIT                                    if a deposit has to be made there first
          + RECENT                                     if it failed within the last RECENT_S seconds

So twice the price counts as much as four times the latency, and a node that failed all its latest
answers is preferred only if the others cost eight times as much.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from viz.buyer.ledger.network_record import NodeHistory
from viz.buyer.network.continuation import length_of
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.counting import Counter
from viz.buyer.terms.request import AskedRequest
from viz.domain.pricing import Price
from viz.domain.units import Address, Units
from viz.protocol.market import MarketOffer
from viz.protocol.messages import AdapterOffer

PRICE: Final = 1.0
LATENCY: Final = 0.5
RELIABILITY: Final = 3.0
DEPOSIT: Final = 0.5
RECENT: Final = 4.0
RECENT_S: Final = 60
# Differences below this are noise, and nobody notices them.
LEAST_MS: Final = 50.0
# The first text takes longer than the round trip of the description: the prompt is computed too.
UNMEASURED_MS: Final = 250.0
_BYTES_A_TOKEN: Final = 3
_TEMPLATE_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Request:
    """The estimated size of a request, in tokens: its prompt, and its longest answers together.

    ``most_prompt_tokens`` is the most that the buyer pays for as the prompt.
    """

    prompt_tokens: int
    completion_tokens: int
    choices: int = 1
    most_prompt_tokens: int = 0

    @classmethod
    def of(cls, body: dict[str, Any], path: str) -> Self:
        """Estimate the size of an OpenAI request, to compare offers; payment has its own limits."""
        asked = AskedRequest(path, body)
        size = sum(len(text.encode()) for text in asked.texts())
        return cls(
            _TEMPLATE_TOKENS + size // _BYTES_A_TOKEN,
            max(0, length_of(body) * asked.choices),
            asked.choices,
            Counter().prompt_tokens(asked),
        )

    def units(self, offer: MarketOffer | AdapterOffer) -> Units:
        """Return the most that the request costs at an offer's list price.

        No answer is longer than the context of the offer's model, where the offer states it.
        """
        return _price_of(offer).amount_units(self.prompt_tokens, self._answer_tokens(offer))

    def most_units(self, offers: Sequence[MarketOffer | AdapterOffer]) -> Units:
        """Return the most that the request can cost at these offers' list prices together.

        Each token that arrives is paid once as completion. A node that breaks off may have been
        paid a step ahead of it, and the next one is paid for the prompt again, which then has the
        text that arrived.
        """
        answer_tokens = max(map(self._answer_tokens, offers))
        step_tokens = min(answer_tokens, self.choices * Limits().step_tokens)
        most_units = 0
        for number, offer in enumerate(offers):
            again = answer_tokens if number else 0
            most_units += _price_of(offer).amount_units(self.most_prompt_tokens + again, 0)
        dearest = Price(0, max(each.completion_price_units for each in offers))
        steps_units = (len(offers) - 1) * dearest.amount_units(0, step_tokens)
        return most_units + dearest.amount_units(0, answer_tokens) + steps_units

    def _answer_tokens(self, offer: MarketOffer | AdapterOffer) -> int:
        if isinstance(offer, MarketOffer):
            return min(self.completion_tokens, offer.context_tokens * self.choices)
        return self.completion_tokens


def _price_of(offer: MarketOffer | AdapterOffer) -> Price:
    return Price(offer.prompt_price_units, offer.completion_price_units)


def ranked(
    offers: Sequence[MarketOffer],
    request: Request,
    histories: Mapping[Address, NodeHistory],
    *,
    funded: Container[Address],
    now_s: int,
) -> list[MarketOffer]:
    """Return the offers, the best first.

    ``funded`` are the nodes where this buyer has some of a deposit left.
    """
    if not offers:
        return []
    unknown = NodeHistory()
    costs = {each.node: request.units(each) + 1 for each in offers}
    firsts = {each.node: _first_ms(each, histories.get(each.node, unknown)) for each in offers}
    cheapest, fastest = min(costs.values()), min(firsts.values())

    def score(offer: MarketOffer) -> tuple[float, Address]:
        history = histories.get(offer.node, unknown)
        found = PRICE * math.log2(costs[offer.node] / cheapest)
        found += LATENCY * math.log2(firsts[offer.node] / fastest)
        found += RELIABILITY * history.failure
        if offer.node not in funded and (offer.prompt_price_units or offer.completion_price_units):
            found += DEPOSIT
        if now_s - history.failed_at_s < RECENT_S:
            found += RECENT
        return found, offer.node

    return sorted(offers, key=score)


def _first_ms(offer: MarketOffer, history: NodeHistory) -> float:
    measured = history.first_ms or UNMEASURED_MS + offer.latency_ms
    return max(LEAST_MS, measured)
