"""Buy answers from a network: the caller names a model, and the buyer chooses the nodes.

Owns the step from a model's name to the nodes that may serve it. The other modules do the rest:
``finder`` finds nodes, ``policy`` chooses, ``pool`` holds the channels, ``budget`` limits spending,
``answer`` fails over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import structlog

from viz.buyer.asking import openai_model
from viz.buyer.network.budget import Budget, DayBudget
from viz.buyer.network.continuation import length_of, with_length
from viz.buyer.network.failover import NetworkAnswer
from viz.buyer.network.finder import NodeFinder
from viz.buyer.network.policy import Request, ranked
from viz.buyer.network.pool import NodePool
from viz.buyer.network.record import NetworkFile, NodeHistory
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.offers import is_askable
from viz.buyer.terms.request import AskedRequest
from viz.domain.ports.chain import Deployment
from viz.domain.ports.clock import Clock
from viz.domain.units import BASE_MODEL, Address, Units
from viz.errors import (
    BooksMismatch,
    ChannelUnknown,
    InvalidRequest,
    PriceAboveCap,
    StoreError,
    UnknownModel,
    VizError,
)
from viz.protocol.market import MarketModel, MarketOffer
from viz.protocol.payment import CHAT_PATH
from viz.protocol.wire import Json

NODES_ASKED: Final = 5
NAMES_SHOWN: Final = 20
# A request reserves the price of the dearest node, and the prompt again for each change of node.
MARGIN: Final = 3
_BYTES_A_TOKEN: Final = 3
_TEMPLATE_TOKENS: Final = 64
_log = structlog.get_logger()


class NetworkBuyer:
    """A buyer that uses all nodes."""

    def __init__(
        self,
        finder: NodeFinder,
        pool: NodePool,
        file: NetworkFile,
        *,
        budget: Budget,
        limits: Limits,
        deployment: Deployment,
        clock: Clock,
    ) -> None:
        self._finder, self._pool, self._file = finder, pool, file
        self._budget, self._limits, self._clock = budget, limits, clock
        self._day = DayBudget(budget, file, clock, deployment)
        self._histories: dict[Address, NodeHistory] = dict(file.read().nodes)
        self.deployment = deployment

    async def models(self, words: Sequence[str] = ()) -> tuple[MarketModel, ...]:
        """Return the models whose description contains every word; raises as ``ask`` does."""
        return with_words(await self._finder.models(), words)

    async def model(self, wanted: str) -> MarketModel:
        """Return the model with this id, or with this name.

        Raises UnknownModel, AdapterEnded or AdapterSuspended if a node says so, ChainError,
        NodeUnreachable.
        """
        for again in (False, True):
            models = await self._finder.models(again=again)
            if (found := _find(models, wanted)) is not None:
                self._pin(wanted, found)
                return found
        if is_askable(wanted) and (why := await self._why_not_sold(wanted)) is not None:
            raise why
        names = [_shown(model) for model in models[:NAMES_SHOWN]]
        raise UnknownModel(
            f"no known node serves {wanted[:80]!r}; the models on offer are: {', '.join(names)}",
            param="model",
        )

    async def _why_not_sold(self, wanted: str) -> VizError | None:
        """Ask why no node sells a model; a title stands for the model that it meant before, too."""
        before = self._file.read().names.get(wanted.strip().casefold())
        return await self._finder.why_not_sold([wanted] if before is None else [before, wanted])

    async def usual_model(self) -> MarketModel:
        """Return the default model: the only adapter, else the only base model.

        Raises UnknownModel if there is no such one.
        """
        models = await self._finder.models()
        for wanted in (True, False):
            found = [each for each in models if (each.adapter_id != BASE_MODEL) == wanted]
            if len(found) == 1:
                return found[0]
        raise UnknownModel("name a model: `viz buyer models` lists them", param="model")

    @asynccontextmanager
    async def ask(
        self, body: dict[str, Any], path: str = CHAT_PATH
    ) -> AsyncIterator[NetworkAnswer]:
        """Yield a streamed answer to an OpenAI request; it is paid for while it arrives.

        Raises InvalidRequest if ``body`` names no model, UnknownModel, NodeUnreachable,
        BudgetSpent, PriceAboveCap, ChannelUnknown if no node has a deposit and none can be made,
        ChainError, and the last node's refusal.
        """
        wanted = body.get("model")
        if not isinstance(wanted, str) or not wanted:
            raise InvalidRequest("name a model: /v1/models lists them", param="model")
        model = await self.model(wanted)
        body = with_length({**body, "model": model.model}, path)
        request = _size_of(body, path)
        offers = self._offers(model, request)
        dearest = max(request.units(offer) for offer in offers)
        need_units = min(self._limits.request_units, request.units(offers[0]))
        with self._day.reserve(need_units) as reservation:
            remaining_units = self._day.remaining_units
            if remaining_units is None:
                reservation.units = self._limits.request_units
            else:
                more = max(0, min(self._limits.request_units, MARGIN * dearest) - need_units)
                reservation.units += min(more, remaining_units)
            answer = NetworkAnswer(
                self._pool,
                self._day,
                reservation,
                self._note,
                model=model,
                offers=offers,
                body=body,
                path=path,
            )
            async with answer:
                yield answer

    def _offers(self, model: MarketModel, request: Request) -> list[MarketOffer]:
        """Return the offers that may be used, the best first, at most ``NODES_ASKED``."""
        allowed = [offer for offer in model.offers if self._budget.allows(offer.node)]
        affordable = [offer for offer in allowed if self._within(offer)]
        usable = [offer for offer in affordable if self._pool.usable(offer)]
        if not usable:
            raise self._why_none(model, allowed, affordable)
        histories, paid = self._histories, self._pool.funded()
        best = ranked(usable, request, histories, paid=paid, now_s=self._clock.now_s())
        return best[:NODES_ASKED]

    def _within(self, offer: MarketOffer) -> bool:
        return (
            offer.prompt_price_units <= self._limits.prompt_price_units
            and offer.completion_price_units <= self._limits.completion_price_units
        )

    @staticmethod
    def _why_none(
        model: MarketModel, allowed: Iterable[MarketOffer], affordable: Iterable[MarketOffer]
    ) -> PriceAboveCap | ChannelUnknown:
        if list(affordable):
            return ChannelUnknown(
                f"no deposit of yours has money for {model.model}: give --key, the wallet that "
                "pays for one, or open a channel with `viz channel open`"
            )
        if list(allowed):
            return PriceAboveCap(
                f"every node asks more for {model.model} than your caps allow: `viz buyer models` "
                "shows the prices, --max-price raises the caps"
            )
        return ChannelUnknown(
            f"none of the nodes that you allow (--allow-node) serves {model.model}"
        )

    def _note(self, offer: MarketOffer, first_ms: float | None) -> None:
        """Record how a node behaved: the time to its first text, or None for a failure."""
        node = offer.node
        history = replace(self._histories.get(node, NodeHistory()), url=offer.url)
        if first_ms is None:
            history = history.failed(self._clock.now_s())
        elif first_ms:
            history = history.answered(first_ms)
        self._histories[node] = history
        try:
            self._file.change(lambda record: record.with_node(node, history))
        except (StoreError, BooksMismatch) as error:
            _log.warning("a node's behaviour could not be recorded", reason=error.detail)

    def _pin(self, wanted: str, model: MarketModel) -> None:
        """Record which model a name means; raise UnknownModel if it meant another one before."""
        if wanted == model.model or model.adapter_id == BASE_MODEL:
            return
        name = wanted.strip().casefold()
        before = self._file.read().names.get(name)
        if before == model.model:
            return
        if before is not None:
            raise UnknownModel(
                f"{wanted[:80]!r} meant {before} when you last used it, and means {model.model} "
                "now: ask by the id of the model that you mean",
                param="model",
            )
        self._file.change(lambda record: record.meaning(name, model.model))

    # as an AskedSide

    async def model_entries(self) -> list[Json]:
        """Return the models of all nodes in OpenAI's form; ``owned_by`` is the cheapest node."""
        return [_entry(model) for model in await self._finder.models()]

    async def model_entry(self, wanted: str) -> Json:
        """Return one model in OpenAI's form; raise UnknownModel."""
        return _entry(await self.model(wanted))

    def asking(self, body: dict[str, Any], path: str) -> AbstractAsyncContextManager[NetworkAnswer]:
        """Return a context that yields the answer to an OpenAI request."""
        return self.ask(body, path)

    async def spending_report(self) -> Json:
        """Return what was spent today and on each open channel, and what is left of it."""
        reports = [client.spending.report() for client in self._pool.clients]
        spent_units = await asyncio.to_thread(lambda: self._day.spent_units)
        return {
            "today": str(spent_units),
            "maxPerDay": None if self._budget.day_units is None else str(self._budget.day_units),
            "left": str(self.unspent_units()),
            "deposits": {node: str(left) for node, left in self._pool.unspent_units().items()},
            "run": _sum_of(each["run"] for each in reports),
            "channels": reports,
        }

    def unspent_units(self) -> Units:
        """Return what is left of the deposits at all nodes."""
        return sum(self._pool.unspent_units().values())


def with_words(models: Iterable[MarketModel], words: Sequence[str]) -> tuple[MarketModel, ...]:
    """Return the models in whose names, descriptions, titles and credits every word occurs."""
    asked = [word.casefold() for word in words]
    return tuple(model for model in models if all(word in _told(model) for word in asked))


def _find(models: Sequence[MarketModel], wanted: str) -> MarketModel | None:
    found = [model for model in models if model.model == wanted]
    if not found:
        name = wanted.strip().casefold()
        found = [model for model in models if model.name.strip().casefold() == name]
    if len(found) > 1:
        ids = ", ".join(dict.fromkeys(model.model for model in found))
        raise UnknownModel(
            f"{wanted[:80]!r} is the name of several models: say which of {ids}", param="model"
        )
    return found[0] if found else None


def _told(model: MarketModel) -> str:
    works = [text for work in model.works for text in (work.title, work.credit)]
    return "\n".join((model.model, model.name, model.description, *works)).casefold()


def _entry(model: MarketModel) -> Json:
    owner = model.offers[0].node if model.offers else model.told_by
    return openai_model(model.model, owner, model.to_json())


def _shown(model: MarketModel) -> str:
    return model.model if model.name in ("", model.model) else f"{model.model} ({model.name})"


def _size_of(body: dict[str, Any], path: str) -> Request:
    """Estimate the size of a request, to compare offers; payment has its own limits."""
    asked = AskedRequest(path, body)
    size = sum(len(text.encode()) for text in asked.texts())
    return Request(_TEMPLATE_TOKENS + size // _BYTES_A_TOKEN, length_of(body) * asked.choices)


def _sum_of(runs: Iterable[Json]) -> Json:
    found = {"requests": 0, "promptTokens": 0, "completionTokens": 0, "units": 0}
    for run in runs:
        for key in found:
            found[key] += int(run[key])
    return {**found, "units": str(found["units"])}
