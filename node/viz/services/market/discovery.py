"""Build the market index: read the directory, ask the nodes, and check what they offer.

Owns the rounds, the check of each offer against the chain, and the models made from the offers. The
listings of works are read from the same nodes. Invariants: an offer is listed only if the chain has
its adapter with these weights and permits that node to serve it; a fault of one node or of the
chain does not stop the round for the others; what could not be checked is not listed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from viz.basemodel.source import DEFAULT_BASE_DIGEST
from viz.domain.ports.chain import AdapterState, ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import BASE_MODEL, AdapterId, Address, ContentId, Hash32
from viz.errors import NodeNotTrusted
from viz.protocol.market import MAX_OFFERS, MarketModel, MarketOffer, MarketWork
from viz.protocol.messages import AdapterOffer, NodeInfo, ServedBase, adapter_model, unnamed
from viz.protocol.wire import JSON_INTEGER_MAX
from viz.services.market.chain_facts import ChainFacts, OutOfReadings
from viz.services.market.listing_exchange import ListingExchange
from viz.services.market.listings import Listings
from viz.services.market.market_index import MarketIndex
from viz.services.market.node_claims import check_offer
from viz.services.market.remote_nodes import (
    ASK_TIMEOUT_S,
    ASKED_AT_ONCE,
    Awaited,
    RemoteNodes,
)
from viz.services.upkeep.supervision import periodically

INTERVAL_S: Final = 300.0
MAX_MODELS: Final = 20_000
# A node that offers so many adapters without permission to serve them is left out.
NOT_SERVABLE_ALLOWED: Final = 16
Faces = Mapping[ContentId, tuple[str, str]]
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NodeOffers:
    """What one node sells now: the node's own catalogue, or another node's description.

    ``base`` is the base model of the offers that name none.
    """

    node: Address
    url: str
    base: ServedBase
    offers: tuple[AdapterOffer, ...]
    latency_ms: int = 0
    seen_at_s: int = 0

    @classmethod
    def described(cls, info: NodeInfo, url: str, latency_ms: float, seen_at_s: int) -> NodeOffers:
        """Return the offers in a node's description."""
        return cls(
            info.node,
            url,
            ServedBase(info.base_digest, info.tokenizer_digest, info.context_tokens),
            info.adapters,
            min(round(latency_ms), 2**32 - 1),
            seen_at_s,
        )

    def base_of(self, offer: AdapterOffer) -> ServedBase:
        """Return the base model of one of the offers."""
        return offer.base or self.base


@dataclass(frozen=True, slots=True)
class _Sold:
    """One checked offer of one node; ``state`` is None for a base model."""

    by: NodeOffers
    offer: AdapterOffer
    state: AdapterState | None


class Discovery:
    """The market as one node sees it. ``run`` renews it; ``index`` answers questions."""

    def __init__(
        self,
        chain: ChainReader,
        http: PeerHttp,
        clock: Clock,
        listings: Listings | None,
        *,
        known: Callable[[], Sequence[NodeOffers]],
        own: Address | None = None,
        interval_s: float = INTERVAL_S,
        at_once: int = ASKED_AT_ONCE,
        timeout_s: float = ASK_TIMEOUT_S,
        round_s: float | None = None,
        first: Collection[Address] = (),
        awaited: Awaited | None = None,
        names_each: bool = True,
    ) -> None:
        """``known`` returns what is known without the directory; ``own`` is the node that asks.

        The arguments from ``at_once`` on are those of ``RemoteNodes``.

        Without ``listings`` the works have the titles that the serving nodes give them.
        """
        self._remote = RemoteNodes(
            chain,
            http,
            clock,
            own=own,
            at_once=at_once,
            timeout_s=timeout_s,
            round_s=round_s,
            first=first,
            awaited=awaited,
            names_each=names_each,
        )
        self._facts = ChainFacts(chain, clock)
        self._listings = listings
        self._exchange = ListingExchange(listings, http, clock) if listings else None
        self._clock, self._sells = clock, known
        self._interval_s = interval_s
        self.index = MarketIndex()

    def urls(self) -> list[str]:
        """Return the URLs of the nodes that answer, whatever they sell."""
        return [each.url for each in self._remote_sellers()]

    async def run(self) -> None:
        """Renew the index until cancelled; chain errors are logged."""
        await periodically(
            self.step, self._interval_s, _log.warning, "the directory cannot be read"
        )

    async def step(self) -> None:
        """Ask the nodes that are due, check what they say, build the index; raise ChainError."""
        await self._remote.look()
        await self._build()

    async def step_on(self, named: Callable[[], Awaitable[Collection[Address]]]) -> None:
        """Step; if a part of the directory was not reached, ask what ``named`` returns of it.

        ``named`` is called when ``index`` has what was found. Raises ChainError.
        """
        await self.step()
        if unasked := self._remote.unasked():
            await self._remote.ask(unasked.intersection(await named()))
            await self._build()

    async def _build(self) -> None:
        self._facts.begin_round()
        faces = await self._listed_works()
        sold: list[_Sold] = []
        nodes = 0
        known, remote = self._sells(), self._remote_sellers()
        known_nodes = {each.node for each in known}
        for each in [*known, *(each for each in remote if each.node not in known_nodes)]:
            found = await self._checked(each)
            nodes += bool(found)
            sold += found
        self._remote.sum_up()
        models = await self._models(sold, faces)
        now_s = self._clock.now_s()
        # In a thread: encoding thousands of models would delay the running streams.
        self.index = await asyncio.to_thread(MarketIndex, models, nodes, now_s)

    def _remote_sellers(self) -> list[NodeOffers]:
        return [
            NodeOffers.described(
                known.info, known.entry.url.rstrip("/"), known.latency_ms, known.seen_at_s
            )
            for known in self._remote.serving()
            if known.info is not None
        ]

    async def _checked(self, by: NodeOffers) -> list[_Sold]:
        """Return the offers that the chain confirms; none if one of them contradicts the chain."""
        sold: list[_Sold] = []
        refused = 0
        for offer in by.offers:
            try:
                state = await self._state_of(offer, by)
            except OutOfReadings:
                break
            except NodeNotTrusted as error:
                self._remote.leave_out(by.node, error.detail, by.url)
                return []
            if offer.adapter_id == BASE_MODEL or state is not None:
                sold.append(_Sold(by, offer, state))
                continue
            refused += 1
            if refused > NOT_SERVABLE_ALLOWED:
                _log.info("a node offers what it may not serve", node=by.node)
                break
        return sold

    async def _state_of(self, offer: AdapterOffer, by: NodeOffers) -> AdapterState | None:
        """Return an adapter's state if this node may serve it; None if not, or for the base.

        Raises NodeNotTrusted for an offer that contradicts the chain, ChainError, OutOfReadings.
        """
        if offer.adapter_id == BASE_MODEL:
            if offer.weights_digest != by.base_of(offer).digest:
                raise NodeNotTrusted("its base model's offer has another digest than its base")
            return None
        state = await self._facts.adapter(offer.adapter_id)
        if state is None:
            return None
        check_offer(offer, by.base_of(offer).digest, state)
        return state if await self._facts.may_serve(offer.adapter_id, by.node) else None

    async def _listed_works(self) -> Faces:
        """Take over listings; return title and credit line of every work that has one."""
        faces: dict[ContentId, tuple[str, str]] = {}
        if self._listings is None or self._exchange is None:
            return faces
        await self._exchange.take([(each.node, each.url) for each in self._remote_sellers()])
        after: ContentId | None = ContentId(0)
        while after is not None:
            page, after = await self._listings.page(after)
            for signed in page:
                faces[signed.listing.content_id] = signed.listing.title, signed.listing.credit
        return faces

    async def _models(self, sold: Iterable[_Sold], faces: Faces) -> list[MarketModel]:
        """Return the models of the checked offers, at most ``MAX_MODELS``."""
        together: dict[tuple[AdapterId, Hash32], list[_Sold]] = defaultdict(list)
        for each in sold:
            together[each.offer.adapter_id, each.offer.weights_digest].append(each)
        models: list[MarketModel] = []
        for key in sorted(together)[:MAX_MODELS]:
            offers = together[key]
            models.append(_model(offers, await self._works(offers, faces)))
        return models

    async def _works(self, sold: Sequence[_Sold], faces: Faces) -> tuple[MarketWork, ...]:
        """Return the works of a model: shares and terms of the chain, titles of their listings."""
        state = sold[0].state
        if state is None:
            return ()
        titles = {
            work.content_id: work.title
            for each in reversed(_tellers(sold))
            for work in each.offer.works
            if work.title
        }
        works: list[MarketWork] = []
        for content_id, share_bps in state.shares:
            title = titles.get(content_id, "")
            works.append(await self._work(content_id, share_bps, title, faces.get(content_id)))
        return tuple(works)

    async def _work(
        self, content_id: ContentId, share_bps: int, title: str, face: tuple[str, str] | None
    ) -> MarketWork:
        try:
            facts = await self._facts.work(content_id)
        except OutOfReadings:
            facts = None
        return MarketWork(
            content_id,
            share_bps,
            title=title if face is None else face[0],
            credit="" if face is None else face[1],
            listed=face is not None,
            uses=facts.uses if facts else 0,
            revocation_class=facts.revocation_class if facts else 0,
            withdrawn_at_s=facts.withdrawn_at_s if facts else 0,
        )


def unchecked_models(sellers: Iterable[NodeOffers]) -> list[MarketModel]:
    """Return the models as the nodes describe them, for a caller without access to the chain.

    Trainer, royalty and works are unchecked: they are what the nodes say.
    """
    together: dict[tuple[AdapterId, Hash32], list[_Sold]] = defaultdict(list)
    for by in sellers:
        for offer in by.offers:
            together[offer.adapter_id, offer.weights_digest].append(_Sold(by, offer, None))
    return [
        _model(
            sold,
            tuple(
                MarketWork(work.content_id, 0, title=work.title)
                for work in _tellers(sold)[0].offer.works
            ),
        )
        for _, sold in sorted(together.items())
    ]


def _model(sold: Sequence[_Sold], works: tuple[MarketWork, ...]) -> MarketModel:
    teller = _tellers(sold)[0]
    offer, state = teller.offer, teller.state
    of_base = offer.adapter_id == BASE_MODEL
    name = _base_name(sold) if of_base else offer.name
    offers = sorted((_offer(each, name) for each in sold), key=_price_of)
    return MarketModel(
        adapter_id=offer.adapter_id,
        model=name if of_base else adapter_model(offer.adapter_id),
        weights_digest=offer.weights_digest,
        base_digest=teller.by.base_of(offer).digest,
        told_by=teller.by.node,
        name=name,
        description=offer.description,
        card=offer.card,
        trainer=None if state is None else state.trainer,
        royalty_bps=0 if state is None else state.royalty_bps,
        trainer_bps=0 if state is None else state.trainer_bps,
        retires_at_s=0 if state is None else _date(state.retires_at),
        works=works,
        offers=tuple(offers[:MAX_OFFERS]),
    )


def _date(retires_at_s: int) -> int:
    """Return when an adapter retires; 0 if no date is set, for which the chain has 2^64 - 1."""
    return 0 if retires_at_s > JSON_INTEGER_MAX else retires_at_s


def _tellers(sold: Sequence[_Sold]) -> list[_Sold]:
    """Order the offers by whom to believe: the trainer's first, then what most nodes say.

    A node that put an adapter on offer without a name says nothing about it, so it comes last.
    """
    names = Counter(each.offer.name for each in sold)
    return sorted(
        sold,
        key=lambda each: (
            each.state is None or each.by.node != each.state.trainer,
            each.offer.name in ("", unnamed(each.offer.adapter_id)),
            -names[each.offer.name],
            each.by.node,
        ),
    )


def _base_name(sold: Sequence[_Sold]) -> str:
    """Return a base model's name: the known one of its digest, else what most nodes call it."""
    if sold[0].offer.weights_digest.hex() == DEFAULT_BASE_DIGEST:
        return DEFAULT_BASE
    names = Counter(each.offer.model for each in sold)
    return min(names, key=lambda name: (-names[name], name))


def _offer(sold: _Sold, name: str) -> MarketOffer:
    base, offer = sold.by.base_of(sold.offer), sold.offer
    called = offer.model if offer.adapter_id == BASE_MODEL else offer.name
    return MarketOffer(
        node=sold.by.node,
        url=sold.by.url,
        prompt_price_units=sold.offer.prompt_price_units,
        completion_price_units=sold.offer.completion_price_units,
        context_tokens=base.context_tokens,
        latency_ms=sold.by.latency_ms,
        seen_at_s=sold.by.seen_at_s,
        notices=sold.offer.notices,
        arithmetic=base.arithmetic,
        called="" if called == name else called,
    )


def _price_of(offer: MarketOffer) -> tuple[int, int, str]:
    return offer.completion_price_units, offer.prompt_price_units, offer.node
