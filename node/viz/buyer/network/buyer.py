"""Buy answers from a network: the caller names a model, and the buyer chooses the nodes.

Owns the step from a model's name to the nodes that may serve it. The other modules do the rest:
``naming`` says which models a name can mean, ``finder`` finds nodes, ``policy`` chooses, ``pool``
holds the channels, ``budget`` limits spending, ``failover`` continues at another node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import structlog

from viz.buyer.asking import openai_model
from viz.buyer.ledger.network_record import NetworkFile, NodeHistory
from viz.buyer.ledger.spending import reports_on_disk
from viz.buyer.network.budget import Budget, DayBudget
from viz.buyer.network.continuation import with_length
from viz.buyer.network.failover import NetworkAnswer
from viz.buyer.network.finder import NodeFinder
from viz.buyer.network.naming import (
    at_nodes,
    called,
    is_default,
    key_of,
    meaning_of,
    means_default,
    narrowed,
    references,
    shown_ids,
    told_before,
    used_in,
)
from viz.buyer.network.policy import Request, ranked
from viz.buyer.network.pool import NodePool
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.offers import NAMES_SHOWN, as_reference, is_askable
from viz.domain.display import counted, prices
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
from viz.protocol.messages import adapter_named, adapter_of_model
from viz.protocol.payment import CHAT_PATH
from viz.protocol.wire import Json

NODES_ASKED: Final = 5
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
        self.day = DayBudget(budget, file, clock, deployment)
        self._histories: dict[Address, NodeHistory] = dict(file.read().nodes)
        self.deployment = deployment

    async def models(self, words: Sequence[str] = ()) -> tuple[MarketModel, ...]:
        """Return the models whose description contains every word; raises as ``ask`` does."""
        return with_words(await self._finder.models(), words)

    async def model(self, wanted: str) -> MarketModel:
        """Return the model with this id, this name, or this ``NAME@DIGEST``.

        Raises UnknownModel if it means none or several, AdapterEnded or AdapterSuspended if a node
        says so, ChainError, NodeUnreachable.
        """
        for again in (False, True):
            models = await self._finder.models(again=again)
            try:
                if found := called(self._at_allowed(models), wanted):
                    return self._meant(found, wanted, self._file.read().names)
            except UnknownModel:
                # The node that serves what the name meant may have been away in the last search.
                if again:
                    raise
        if found := called(models, wanted):
            raise self._none_allowed(found[0].model)
        asks = is_askable(wanted) and not means_default(wanted)
        if asks and (why := await self._why_not_sold(wanted)) is not None:
            raise why
        allowed = self._at_allowed(models)
        names = [
            shown if model.name in ("", model.model) else f"{shown} ({model.name})"
            for model, shown in zip(allowed, self._ids(allowed), strict=True)
        ]
        raise UnknownModel(
            f"no known node serves {wanted[:80]!r}; the models on offer are: "
            + ", ".join(names[:NAMES_SHOWN]),
            param="model",
        )

    async def _why_not_sold(self, wanted: str) -> VizError | None:
        """Ask why no node sells a model; a title stands for the model that it meant before, too."""
        before = self._file.read().names.get(key_of(wanted), "")
        return await self._finder.why_not_sold(
            [before, wanted] if adapter_of_model(before) else [wanted]
        )

    async def usual_model(self) -> MarketModel:
        """Return the model to ask if none is named: the only adapter, else the only base model.

        Of several base models it is the default one (``is_default``), else the one that this buyer
        used, else the one at nodes that it paid. Nodes that the buyer does not allow do not count.
        The name of that one is then taken as in ``model``: if this buyer used the name before, it
        means what it meant then. Raises UnknownModel if several base models are left, if several
        have that name, or if none is there.
        """
        models = self._at_allowed(await self._finder.models())
        adapters = [each for each in models if each.adapter_id != BASE_MODEL]
        if len(adapters) == 1:
            return adapters[0]
        names = self._file.read().names
        bases = narrowed(
            [each for each in models if each.adapter_id == BASE_MODEL],
            [is_default, used_in(names), self._paid],
        )
        if len(bases) != 1:
            raise UnknownModel("name a model: `viz buyer models` lists them", param="model")
        return self._meant(called(models, bases[0].model), bases[0].model, names)

    def _meant(
        self, found: Sequence[MarketModel], wanted: str, names: Mapping[str, str]
    ) -> MarketModel:
        """Return which of the models that ``wanted`` can mean it means; ``names`` is the record.

        The default base model's own name means that one alone. Another means what it meant before,
        and a new one the only model that the buyer can pay: who once sold the buyer something gains
        no name by that. Raises UnknownModel if several are left, or if the name meant a model that
        is not among them.
        """
        if len(found) == 1 and adapter_named(wanted) is not None:
            return found[0]
        left = list(found)
        if means_default(wanted):
            if own := [each for each in left if is_default(each)]:
                return own[0]
            raise UnknownModel(
                f"{wanted[:80]!r} means Viz's default base model, which no known node serves; "
                "`viz buyer models` shows the ids of the others",
                param="model",
            )
        if (before := names.get(key_of(wanted))) is not None:
            if kept := [each for each in left if meaning_of(each) == before]:
                return kept[0]
            raise UnknownModel(
                f"{wanted[:80]!r} meant {told_before(before, wanted, left)} when you last used it, "
                f"and means {', '.join(references(left[:NAMES_SHOWN], wanted))} now: ask by the id "
                "of the model that you mean",
                param="model",
            )
        left = narrowed(left, [self._can_pay])
        if len(left) > 1:
            raise UnknownModel(self._several(left, wanted), param="model")
        return left[0]

    def _ids(self, models: Sequence[MarketModel]) -> list[str]:
        """Return the id under which each model can be asked for."""
        names = self._file.read().names
        return shown_ids(models, lambda found, wanted: self._meant(found, wanted, names))

    def _at_allowed(self, models: Iterable[MarketModel]) -> list[MarketModel]:
        """Return the models that the allowed nodes serve, as these offer and call them."""
        found = (at_nodes(each, self._budget.allows) for each in models)
        return [each for each in found if each is not None]

    def _paid(self, model: MarketModel) -> bool:
        paid = self._pool.paid()
        return any(offer.node in paid for offer in model.offers)

    def _can_pay(self, model: MarketModel) -> bool:
        return any(
            self._budget.allows(offer.node) and self._within(offer) and self._pool.usable(offer)
            for offer in model.offers
        )

    def _several(self, found: Sequence[MarketModel], wanted: str) -> str:
        """Tell each model that a name can mean, with its nodes and the cheapest price."""
        shown: list[str] = []
        for model, reference in zip(found, references(found, wanted), strict=True):
            said = counted(len(model.offers), "node")
            if model.offers:
                best = model.offers[0]
                price = prices(
                    best.prompt_price_units, best.completion_price_units, self.deployment
                )
                said += f", from {price}"
            shown.append(f"{reference} ({said})")
        more = len(shown) - NAMES_SHOWN
        return (
            f"{wanted[:80]!r} is the name of several models: say which of "
            + "; ".join(shown[:NAMES_SHOWN])
            + (f"; and {more} more, which `viz buyer models` lists" if more > 0 else "")
        )

    @asynccontextmanager
    async def ask(
        self, body: dict[str, Any], path: str = CHAT_PATH, *, model: MarketModel | None = None
    ) -> AsyncIterator[NetworkAnswer]:
        """Yield a streamed answer to an OpenAI request; it is paid for while it arrives.

        ``model`` is what the request's ``model`` means, if the caller knows it already.
        Raises InvalidRequest if ``body`` names no model, UnknownModel, NodeUnreachable,
        BudgetSpent, PriceAboveCap, ChannelUnknown if no node has a deposit and none can be made,
        ChainError, and the last node's refusal.
        """
        wanted = body.get("model")
        if not isinstance(wanted, str) or not wanted:
            raise InvalidRequest("name a model: /v1/models lists them", param="model")
        model = model or await self.model(wanted)
        body = with_length({**body, "model": model.model}, path)
        request = Request.of(body, path)
        offers = self._offers(model, request)
        dearest = max(request.units(offer) for offer in offers)
        with self.day.reserve_for(
            request.units(offers[0]),
            dearest,
            request.most_units(offers),
            self._limits.request_units,
        ) as reservation:
            answer = NetworkAnswer(
                self._pool,
                self.day,
                reservation,
                self._note,
                model=model,
                offers=offers,
                body=body,
                path=path,
            )
            async with answer:
                self._note_used(wanted, model)
                yield answer

    def first_offer(self, body: dict[str, Any], path: str, model: MarketModel) -> MarketOffer:
        """Return the offer that an OpenAI request for a model tries first; raises as ``ask``."""
        return self._offers(model, Request.of(with_length(body, path), path))[0]

    def _offers(self, model: MarketModel, request: Request) -> list[MarketOffer]:
        """Return the offers that may be used, the best first, at most ``NODES_ASKED``."""
        allowed = [offer for offer in model.offers if self._budget.allows(offer.node)]
        affordable = [offer for offer in allowed if self._within(offer)]
        usable = [offer for offer in affordable if self._pool.usable(offer)]
        if not usable:
            raise self._why_none(model, allowed, affordable)
        histories, funded = self._histories, self._pool.funded()
        best = ranked(usable, request, histories, funded=funded, now_s=self._clock.now_s())
        return best[:NODES_ASKED]

    def _within(self, offer: MarketOffer) -> bool:
        return (
            offer.prompt_price_units <= self._limits.prompt_price_units
            and offer.completion_price_units <= self._limits.completion_price_units
        )

    def _why_none(
        self, model: MarketModel, allowed: Iterable[MarketOffer], affordable: Iterable[MarketOffer]
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
        return self._none_allowed(model.model)

    def _none_allowed(self, name: str) -> ChannelUnknown:
        said = f"none of the nodes that you allow (--allow-node) serves {name}"
        if silent := self._finder.without_offers(self._budget.nodes):
            said += f". In the last search these did not answer, or sold nothing: {silent}"
        return ChannelUnknown(said)

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

    def _note_used(self, wanted: str, model: MarketModel) -> None:
        """Record what a name means, and the name in ``NAME@DIGEST``; what it meant before stays."""
        if adapter_named(wanted) is not None:
            return
        reference = as_reference(wanted)
        names = [wanted, reference[0]] if reference else [wanted]
        try:
            known = self._file.read().names
            if new := [key for name in names if (key := key_of(name)) not in known]:
                self._file.change(lambda record: record.meaning(new, meaning_of(model)))
        except (StoreError, BooksMismatch) as error:
            _log.warning("what a name means could not be recorded", reason=error.detail)

    # as an AskedSide

    async def model_entries(self) -> list[Json]:
        """Return the models of the allowed nodes in OpenAI's form.

        ``owned_by`` is the cheapest node.
        """
        models = self._at_allowed(await self._finder.models())
        return [_entry(*each) for each in zip(models, self._ids(models), strict=True)]

    async def model_entry(self, wanted: str) -> Json:
        """Return one model in OpenAI's form; raise UnknownModel."""
        model = await self.model(wanted)
        return _entry(model, model.model if as_reference(wanted) is None else wanted)

    def asking(self, body: dict[str, Any], path: str) -> AbstractAsyncContextManager[NetworkAnswer]:
        """Return a context that yields the answer to an OpenAI request."""
        return self.ask(body, path)

    async def spending_report(self) -> Json:
        """Return what was spent today and on each channel, and what is left of it.

        Channels that are not in use here, but in another process perhaps, are told as their files
        have them.
        """
        reports = [client.spending.report() for client in self._pool.clients]
        found, _ = await asyncio.to_thread(reports_on_disk, self._file.home, self.deployment)
        here = {each["node"] for each in reports}
        others = [each for each in found if not each["former"] and each["node"] not in here]
        return await asyncio.to_thread(self.day.report) | {
            "left": str(self.unspent_units()),
            "deposits": {node: str(left) for node, left in self._pool.unspent_units().items()},
            "run": _sum_of(each["run"] for each in reports),
            "channels": [*reports, *others],
        }

    def unspent_units(self) -> Units:
        """Return what is left of the deposits at all nodes."""
        return sum(self._pool.unspent_units().values())


def with_words(models: Iterable[MarketModel], words: Sequence[str]) -> tuple[MarketModel, ...]:
    """Return the models in whose names, descriptions, titles and credits every word occurs."""
    asked = [word.casefold() for word in words]
    return tuple(model for model in models if all(word in _told(model) for word in asked))


def _told(model: MarketModel) -> str:
    works = [text for work in model.works for text in (work.title, work.credit)]
    return "\n".join((model.model, model.name, model.description, *works)).casefold()


def _entry(model: MarketModel, shown: str) -> Json:
    owner = model.offers[0].node if model.offers else model.told_by
    return openai_model(shown, owner, model.to_json())


def _sum_of(runs: Iterable[Json]) -> Json:
    found = {"requests": 0, "promptTokens": 0, "completionTokens": 0, "units": 0}
    for run in runs:
        for key in found:
            found[key] += int(run[key])
    return {**found, "units": str(found["units"])}
