"""Say who was paid for an answer of the network: each node's part, and the deposits made for it.

Invariant: an error that ends an answer after money was paid, or signed for a deposit, says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from viz.buyer.asking import DEPOSITS, PARTS
from viz.domain.display import amount
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, Units
from viz.errors import VizError
from viz.protocol.market import MarketOffer
from viz.protocol.problems import told_by
from viz.protocol.wire import Json


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """One node's part of an answer: what it was paid, for how many tokens.

    If the part is not ``billed`` yet, ``units`` is the most that can be taken for it. The tokens
    are the bill's; if they are ``estimated``, they are this buyer's own count, which is only a
    bound where it does not have the model's tokenizer. ``fault`` says why the node did not finish.
    """

    node: Address
    url: str
    units: Units
    billed: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str = ""
    estimated: bool = False

    def to_json(self) -> Json:
        said: Json = {
            "node": self.node,
            "url": self.url,
            "cost": str(self.units),
            "billed": self.billed,
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "estimated": self.estimated,
        }
        return said | ({"fault": self.fault} if self.fault else {})


@dataclass(frozen=True, slots=True)
class DepositMade:
    """A deposit that was signed for one answer; ``confirmed``: it is in the channel."""

    node: Address
    url: str
    units: Units
    confirmed: bool = True

    def to_json(self) -> Json:
        return {
            "node": self.node,
            "url": self.url,
            "amount": str(self.units),
            "confirmed": self.confirmed,
        }


def at_node(error: VizError, offer: MarketOffer) -> VizError:
    """Return a node's error, which names the node: what it says is told as its words."""
    who = f"{offer.url} ({offer.node})"
    told_by(error, who if not error.detail.startswith(offer.url) else offer.url)
    if offer.url in error.detail or offer.node in error.detail:
        return error
    return _same(error, f"{who}: {error.detail}")


def with_costs(
    error: VizError,
    parts: Sequence[AnswerPart],
    deposits: Sequence[DepositMade],
    deployment: Deployment,
) -> VizError:
    """Return the error that ends an answer, with what was paid and deposited before it."""
    said = [
        f"{amount(each.units, deployment)} {'' if each.billed else 'at most '}at {each.url} "
        f"({each.node})"
        for each in parts
        if each.units
    ]
    told = error.detail
    if said:
        told += f". Paid for what arrived: {' and '.join(said)}"
    if deposits:
        told += "; " if said else ". "
        told += "deposited for it, and yours until you sign for it: " + " and ".join(
            f"{amount(each.units, deployment)} at {each.url} ({each.node})"
            + ("" if each.confirmed else ", not confirmed yet")
            for each in deposits
        )
    more = {PARTS: [each.to_json() for each in parts if each.units]} if said else {}
    if deposits:
        more[DEPOSITS] = [each.to_json() for each in deposits]
    return _same(error, told, **more) if more else error


def _same(error: VizError, detail: str, **more: object) -> VizError:
    told = type(error)(detail, **{**error.extensions, **more})
    told.answered, told.quotes = error.answered, error.quotes
    told.__cause__ = error.__cause__ or error
    return told
